"""A ContextMemory on disk: one safetensors file with a JSON header, written atomically, checked when it is opened.

The header is the entry "sharedllm" of the safetensors metadata: format and version, fingerprint of the model that made
the memory, fingerprint of its tokenizer, chunk size, sources, a SHA-256 of each tensor and one of the header itself, so
that no flipped byte goes unseen. Nothing in it is ever executed.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
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
_FIELDS = {
    "fingerprint": str,
    "tokenizer": str,
    "library": str,
    "chunk_size": int,
    "texts": int,
    "layers": int,
    "sources": list,
    "checksums": dict,
    "checksum": str,
}


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bytes(tensor))
    return digest.hexdigest()


def _header_checksum(header: dict) -> str:
    """SHA-256 of all fields but the checksum itself."""
    fields = {name: value for name, value in header.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _library() -> str:
    try:
        return version("sharedllm")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def fingerprint_tensors(named: Iterable[tuple[str, Tensor]], settings: dict) -> str:
    """32 hex digits that change with any name, dtype, shape or byte of the tensors, and with any setting."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:32]


def _plain(memory: ContextMemory) -> dict[str, Tensor]:
    """The tensors as a file holds them: on the CPU, contiguous, no two over the same storage."""
    tensors, storages = {}, set()
    for name, tensor in memory.tensors().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _sources(memory: ContextMemory) -> list:
    """The sources as they will be read: JSON turns tuples into lists and the keys of dicts into text."""
    try:
        sources = json.loads(json.dumps(memory.sources))
    except (TypeError, ValueError) as error:
        raise ValueError(f"sources={memory.sources!r} can't be saved: {error}; use text and numbers.") from None
    if len(sources) != len(memory) or not all(isinstance(text, list) for text in sources):
        raise ValueError(f"sources={memory.sources!r} do not fit {len(memory)} texts: give each text a tuple of dicts.")
    return sources


def save_memory(memory: ContextMemory, path: str | Path, *, tokenizer: str = "") -> None:
    """Write a memory to one file. An older file of that name stays whole until the new one is complete.

    Args:
        tokenizer: identifies the tokenizer of the ids, to be compared by who opens it; "" if unknown.

    Raises:
        ValueError: the folder does not exist, the path is a folder, or the sources can't be written as JSON.
        OSError: the file can't be written: no space or no permission.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file to save the memory to.")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist: create it, or save the memory elsewhere.")
    tensors = _plain(memory)
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "fingerprint": memory.fingerprint,
        "tokenizer": tokenizer,
        "library": _library(),
        "chunk_size": memory.chunk_size,
        "texts": len(memory),
        "layers": len(memory.keys),
        "sources": _sources(memory),
        "checksums": {name: checksum(t) for name, t in tensors.items()},
    }
    header["checksum"] = _header_checksum(header)
    temporary = path.with_name(f"{path.name}.tmp{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = (path if path.is_file() else temporary).stat().st_mode & 0o777
        save_file(tensors, temporary, metadata={"sharedllm": json.dumps(header)})
        temporary.chmod(mode)  # save_file leaves a file that only its owner may read
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path} can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged: {what}; read the text again.")


def _open(path: Path):
    if not path.exists():
        raise ValueError(f"{path} does not exist: check the name, or make it with `sharedllm read`.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a memory file.")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: name a memory file.")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a memory, or was cut short: {error}; read the text again.") from None
    except OSError as error:
        raise ValueError(f"{path} can't be opened: {error}.") from None


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
        made_as, kind = header["format_version"], header["format"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(path, "its header can't be read") from None
    if kind != FORMAT:
        raise ValueError(f"{path} has format {kind!r}, not {FORMAT!r}: it is not a memory.")
    if made_as != VERSION:
        raise ValueError(f"{path} has format_version={made_as}, this package reads {VERSION}: upgrade sharedllm.")
    for name, kind in _FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise _damaged(path, f"its header has {name}={header.get(name)!r}, not a {kind.__name__}")
    if header["checksum"] != _header_checksum(header):
        raise _damaged(path, "the checksum of its header does not fit")
    return header


def open_memory(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    device: torch.device | str = "cpu",
) -> ContextMemory:
    """Open a memory and check every byte of it.

    Args:
        fingerprint: of the model that will use it (`model.fingerprint()`); None skips the comparison.
        tokenizer: as it was given to `save_memory`; None skips the comparison.

    Raises:
        ValueError: as `read_header`; a damaged, missing or misshapen tensor; a memory of another model or tokenizer.
    """
    path = Path(path)
    header = read_header(path)
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        raise ValueError(
            f"{path} was made by another model: fingerprint {header['fingerprint'] or '(none)'} in the file, "
            f"{fingerprint} here; read the text again with this model."
        )
    if tokenizer is not None and header["tokenizer"] != tokenizer:
        raise ValueError(
            f"{path} was made with another tokenizer: {header['tokenizer'] or '(none)'} in the file, "
            f"{tokenizer} here; read the text again with this tokenizer."
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
    """Refuse tensors that do not fit each other; checksums find damage, this finds what was never right."""
    texts, mask = header["texts"], tensors["mask"]
    if mask.ndim != 2 or len(mask) != texts or len(header["sources"]) != texts:
        raise _damaged(path, f"mask has shape {tuple(mask.shape)} for {texts} texts")
    if header["chunk_size"] < 1:
        raise _damaged(path, f"chunk_size={header['chunk_size']} is not positive")
    heads = tensors["keys.0"] if "keys.0" in tensors else torch.zeros(texts, 1, mask.shape[1], 1)
    if not heads.is_floating_point():
        raise _damaged(path, f"keys.0 has dtype {heads.dtype}, not a floating point one")
    for name, tensor in tensors.items():
        dtype = _INTEGERS.get(name, heads.dtype)
        if tensor.dtype != dtype:
            raise _damaged(path, f"{name} has dtype {tensor.dtype}, not {dtype}")
        if name == "lengths":
            fits = tensor.shape == (texts,)
        elif name == "token_ids":
            fits = tensor.ndim == 2 and len(tensor) == texts
        elif name in _INTEGERS:
            fits = tensor.shape == mask.shape
        else:
            twin = tensors[name.replace("values", "keys")]
            fits = tensor.ndim == 4 and tensor.shape == twin.shape and tensor.shape[::2] == mask.shape
        if not fits:
            raise _damaged(path, f"{name} has shape {tuple(tensor.shape)}, mask {tuple(mask.shape)}")
    lengths, columns = tensors["lengths"], tensors["token_ids"].shape[1]
    if ((lengths < 0) | (lengths > columns)).any():
        raise _damaged(path, f"lengths={lengths.tolist()} do not fit token_ids of {columns} columns")
