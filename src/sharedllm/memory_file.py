"""A ContextMemory on disk: one safetensors file with a JSON header, written atomically, checked when it is opened.

The header is the entry "sharedllm" of the safetensors metadata: format and version, fingerprint of the model that made the
memory, fingerprint of its tokenizer, chunk size, sources, and the SHA-256 of each tensor. Nothing in it is ever executed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .memory import ContextMemory

FORMAT = "sharedllm.memory"
VERSION = 1
_INTEGERS = {"mask": torch.bool, "token_ids": torch.int32} | dict.fromkeys(
    ("chunk", "position", "ratio", "lengths"), torch.int64
)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def fingerprint_tensors(named: Iterable[tuple[str, Tensor]], settings: dict) -> str:
    """32 hex digits that change with any name, dtype, shape or byte of the tensors, and with any setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:32]


def save_memory(memory: ContextMemory, path: str | Path, *, tokenizer: str = "") -> None:
    """Write a memory to one file. An older file of that name stays whole until the new one is complete.

    Args:
        tokenizer: identifies the tokenizer of the ids, to be compared by who opens it; "" if unknown.

    Raises:
        ValueError: the folder does not exist, or the path is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to save the memory to.")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: create it, or save the memory elsewhere.")
    tensors = {name: t.detach().cpu().contiguous() for name, t in memory.tensors().items()}
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "fingerprint": memory.fingerprint,
        "tokenizer": tokenizer,
        "chunk_size": memory.chunk_size,
        "texts": len(memory),
        "layers": len(memory.keys),
        "sources": memory.sources,
        "checksums": {name: checksum(t) for name, t in tensors.items()},
    }
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"sharedllm": json.dumps(header)})
        with open(temporary, "rb") as written:  # noqa: PTH123 (a descriptor is needed to flush it to disk)
            os.fsync(written.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged: {what}; read the text again.")


def _open(path: Path):
    if not path.exists():
        raise ValueError(f"{path} does not exist: check the name, or make it with `sharedllm read`.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a memory file.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a memory, or was cut short: {error}.") from None


def read_header(path: str | Path) -> dict:
    """The header of a memory, without its tensors.

    Raises:
        ValueError: no such file, not a memory, a damaged header, or a newer format.
    """
    path = Path(path)
    with _open(path) as file:
        text = (file.metadata() or {}).get("sharedllm")
    if text is None:
        raise ValueError(f"{path} is a safetensors file but not a memory: make one with `sharedllm read`.")
    try:
        header = json.loads(text)
        version, kind = header["format_version"], header["format"]
        missing = {"fingerprint", "tokenizer", "chunk_size", "texts", "layers", "sources", "checksums"} - header.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "its header can't be read") from None
    if kind != FORMAT:
        raise ValueError(f"{path} has format {kind!r}, not {FORMAT!r}: it is not a memory.")
    if version != VERSION:
        raise ValueError(f"{path} has format_version={version}, this package reads {VERSION}: upgrade sharedllm.")
    if missing:
        raise _damaged(path, f"its header lacks {', '.join(sorted(missing))}")
    return header


def open_memory(
    path: str | Path, *, fingerprint: str | None = None, device: torch.device | str = "cpu"
) -> ContextMemory:
    """Open a memory and check every byte of it.

    Args:
        fingerprint: of the model that will use it (`model.fingerprint()`); None skips the comparison.

    Raises:
        ValueError: as `read_header`; a damaged, missing or misshapen tensor; a memory of another model.
    """
    path = Path(path)
    header = read_header(path)
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was made by another model: fingerprint {header['fingerprint'] or '(none)'} in the file, "
            f"{fingerprint} here; read the text again with this model."
        )
    layers = header["layers"]
    names = {f"{kind}.{i}" for kind in ("keys", "values") for i in range(layers)} | _INTEGERS.keys()
    with _open(path) as file:
        if set(file.keys()) != names or header["checksums"].keys() != names:
            odd = sorted(names ^ (set(file.keys()) & header["checksums"].keys()))
            raise _damaged(path, f"tensors {', '.join(odd)} are missing or unexpected")
        tensors = {name: file.get_tensor(name) for name in sorted(names)}
    for name, tensor in tensors.items():
        if checksum(tensor) != header["checksums"][name]:
            raise _damaged(path, f"the checksum of {name} does not fit")
    _check_shapes(path, header, tensors)
    memory = ContextMemory(
        keys=tuple(tensors[f"keys.{i}"] for i in range(layers)),
        values=tuple(tensors[f"values.{i}"] for i in range(layers)),
        chunk_size=header["chunk_size"],
        sources=tuple(tuple(text) for text in header["sources"]),
        fingerprint=header["fingerprint"],
        **{name: tensors[name] for name in _INTEGERS},
    )
    return memory.to(device)


def _check_shapes(path: Path, header: dict, tensors: dict[str, Tensor]) -> None:
    for name, dtype in _INTEGERS.items():
        if tensors[name].dtype != dtype:
            raise _damaged(path, f"{name} has dtype {tensors[name].dtype}, not {dtype}")
    texts, mask = header["texts"], tensors["mask"]
    if mask.ndim != 2 or len(mask) != texts or len(header["sources"]) != texts:
        raise _damaged(path, f"mask has shape {tuple(mask.shape)} for {texts} texts")
    for name in ("chunk", "position", "ratio"):
        if tensors[name].shape != mask.shape:
            raise _damaged(path, f"{name} has shape {tuple(tensors[name].shape)}, mask {tuple(mask.shape)}")
    if tensors["lengths"].shape != (texts,) or tensors["token_ids"].shape[:1] != (texts,):
        raise _damaged(path, f"lengths and token_ids do not fit {texts} texts")
    for name, tensor in tensors.items():
        is_heads = name.startswith(("keys", "values"))
        if is_heads and (tensor.ndim != 4 or tensor.shape[0] != texts or tensor.shape[2] != mask.shape[1]):
            raise _damaged(path, f"{name} has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}")
