"""A ContextMemory on disk: one safetensors file with a JSON header, written atomically, checked when it is opened.

The header is the entry "sharedllm" of the safetensors metadata: format and version, fingerprint of the model that made
the memory, fingerprint of its tokenizer, chunk size, sources, a SHA-256 of each tensor and one of the header itself, so
that every flipped byte is noticed. Nothing in the file is ever executed.

With storage "int8" each token's keys and values are kept as 8-bit integers, head by head, with a float32 scale
`keys.0.scale` (B, G, S): reading gives scale · integer, in the memory's original dtype.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..utils.errors import ITS_MODEL, UserError, as_path, refusal
from ..utils.fields import misfit_of
from ..utils.files import put, there
from ..utils.scratch import scratch
from .context_memory import ContextMemory
from .fingerprint import raw_bytes
from .int8 import dequantised, quantised
from .schema import HEADER, INTEGERS, OPTIONAL, SENTENCES, SOURCES, impossible, misshapen
from .segment import Stored

FORMAT = "sharedllm.memory"
VERSION = 3
# What files without embedded sentences say, which earlier versions of the package can read.
_WITHOUT_SENTENCES = 2
# Entries that had another name in format version 1, which can still be read.
_FIRST_NAMES = {"ratio": "stride"}
Storage = Literal["model", "int8"]


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _header_checksum(header: dict) -> str:
    """SHA-256 of all fields but the checksum itself."""
    fields = {name: value for name, value in header.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@cache
def library() -> str:
    """Version of this package."""
    try:
        return version("sharedllm")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _plain(memory: ContextMemory, storage: Storage) -> dict[str, Tensor]:
    """The tensors as a file holds them: on the CPU, contiguous, no two over the same storage."""
    tensors, storages, kept = {}, set(), memory.tensors()
    if storage == "int8":
        for name in [n for n in kept if n.startswith(("keys.", "values.", "residuals."))]:
            kept[name], kept[f"{name}.scale"] = quantised(kept[name].detach())
    for name, tensor in kept.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    return tensors


def _sources(memory: ContextMemory) -> list:
    """The sources as they will be read back: JSON turns tuples into lists and dict keys into text."""
    try:
        sources = json.loads(json.dumps(memory.sources))
    except (TypeError, ValueError) as error:
        raise UserError(f"sources={memory.sources!r} can't be saved: {error}; use text and numbers.") from None
    if len(sources) != len(memory) or SOURCES.misfit(sources) is not None:
        raise UserError(
            f"sources={memory.sources!r} do not match {len(memory)} texts: give each text a tuple of dicts."
        )
    return sources


def save_memory(
    memory: ContextMemory,
    path: str | Path,
    *,
    tokenizer: str = "",
    storage: Storage = "model",
    embedded: Stored | None = None,
) -> str:
    """Write a memory to one file. An existing memory of that name stays whole until the new one is complete.

    Args:
        tokenizer: identifies the tokenizer of the ids, compared when the file is opened; "" if unknown.
        storage: "model" keeps keys and values as they are, "int8" rounds them to 8 bits, half the size of 16.
        embedded: the sentences of its pieces.

    Returns:
        The checksum of the header, which identifies the whole content of the file.

    Raises:
        UserError: no such storage, the folder does not exist, the path is a folder or a file that is not a memory, or the sources
            can't be written as JSON.
        OSError: the file can't be written, for lack of space or permission.
    """
    path = as_path("path", path)
    if not isinstance(memory, ContextMemory):
        raise UserError(f"memory is a {type(memory).__name__}: pass a memory that `read` gave.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file to save the memory to.")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist: create it, or save the memory elsewhere.")
    if storage not in ("model", "int8"):
        raise UserError(f"storage={storage!r} is not known: use 'model' or 'int8'.")
    if path.is_file() and not _ours(path):
        raise UserError(f"{path} is there and not a memory: name another file, or delete it first.")
    tensors = _plain(memory, storage)
    if embedded is not None:
        tensors[SENTENCES] = embedded.sentences.cpu().contiguous()
    header = {
        "format": FORMAT,
        "format_version": _WITHOUT_SENTENCES if embedded is None else VERSION,
        "fingerprint": memory.fingerprint,
        "tokenizer": tokenizer,
        "library": library(),
        "storage": storage,
        "dtype": str(memory.keys[0].dtype).removeprefix("torch.") if memory.keys else "",
        "chunk_size": memory.chunk_size,
        "texts": len(memory),
        "layers": len(memory.keys),
        "residuals": len(memory.residuals),
        "sources": _sources(memory),
        **({} if embedded is None else {"encoder": embedded.encoder}),
        "checksums": {name: checksum(t) for name, t in tensors.items()},
    }
    header["checksum"] = _header_checksum(header)
    try:
        # A folder: save_file writes to a temporary name of its own first.
        with scratch(path.parent) as folder:
            temporary = folder / path.name
            temporary.touch()
            mode = (path if path.is_file() else temporary).stat().st_mode & 0o777
            save_file(tensors, temporary, metadata={"sharedllm": json.dumps(header)})
            temporary.chmod(mode)  # save_file makes a file that only its owner may read
            put(temporary, path)
    except SafetensorError as error:
        # The system's number tells a full disk from other faults.
        number = re.search(r"\(os error (\d+)\)", str(error))
        said = f"{path} can't be written: {error}"
        raise (OSError(said) if number is None else OSError(int(number[1]), said)) from error
    return header["checksum"]


def _ours(path: Path) -> bool:
    """Whether a file is a memory, of whatever version, or empty."""
    try:
        with safe_open(path, framework="pt") as file:
            return "sharedllm" in (file.metadata() or {})
    except SafetensorError:
        return path.stat().st_size == 0


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}; read the text again.")


def opened(path: Path) -> Any:
    """An open memory, whose header and tensors `header_of` and `tensors_of` read: of one file, also if another one takes its place meanwhile.

    Raises:
        UserError: no such file, or no safetensors file.
    """
    if not there(path):
        raise UserError(f"{path} does not exist: check the name, or make it with `sharedllm read`.")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a memory file.")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: name a memory file.")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError:
        raise UserError(f"{path} is not a memory, or was cut short; read the text again.") from None
    except OSError as error:
        # safetensors says of a file that may not be read that it does not exist.
        denied = not os.access(path, os.R_OK)
        why = refusal(PermissionError(errno.EACCES, os.strerror(errno.EACCES))) if denied else error
        raise UserError(f"{path} can't be opened: {why}.") from None


def read_header(path: str | Path) -> dict:
    """The header of a memory, without its tensors.

    Raises:
        UserError: no such file, not a memory, a damaged header, or a newer format.
    """
    path = Path(path)
    with opened(path) as file:
        return header_of(path, file)


def header_of(path: Path, file: Any) -> dict:
    """The header of an `opened` memory.

    Raises:
        UserError: as `read_header`.
    """
    text = (file.metadata() or {}).get("sharedllm")
    if text is None:
        raise UserError(f"{path} is a safetensors file but not a memory: make one with `sharedllm read`.")
    try:
        header = json.loads(text)
        made_as, kind = header["format_version"], header["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "its header can't be read") from None
    if kind != FORMAT:
        raise UserError(f"{path} has format {kind!r}, not {FORMAT!r}: it is not a memory.")
    if made_as not in range(1, VERSION + 1):
        raise UserError(f"{path} has format_version={made_as!r}, this package reads 1 … {VERSION}: upgrade sharedllm.")
    wrong = misfit_of(header, HEADER, OPTIONAL)
    if wrong is not None:
        raise _damaged(path, f"in its header {wrong}")
    if header["checksum"] != _header_checksum(header):
        raise _damaged(path, "the checksum of its header does not match")
    return header


def open_file(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    verify: bool = True,
) -> ContextMemory:
    """Open a memory in one file; `sharedllm.open_memory` opens files and folders.

    Args:
        fingerprint: of the model that will use the memory (`model.fingerprint()`); None skips the comparison.
        tokenizer: as given to `save_memory`; None skips the comparison.
        verify: read every byte and compare checksums.

    Raises:
        UserError: as `read_header`; a damaged, missing or misshapen tensor; a memory of another model or tokenizer.
    """
    path = Path(path)
    with opened(path) as file:
        header = header_of(path, file)
        made = ("fingerprint", fingerprint, "by another model"), ("tokenizer", tokenizer, "with another tokenizer")
        for name, given, what in made:
            if given is not None and header[name] != given:
                raise UserError(
                    f"{path} was made {what}: {name} {header[name] or '(none)'} in the file, {given} here; {ITS_MODEL}, or read "
                    "the text again with this one."
                )
        tensors = tensors_of(path, file, header, verify)
    layers = range(header["layers"])
    return ContextMemory(
        keys=tuple(heads(header, tensors, f"keys.{i}") for i in layers),
        values=tuple(heads(header, tensors, f"values.{i}") for i in layers),
        residuals=tuple(heads(header, tensors, f"residuals.{i}") for i in range(header.get("residuals", 0))),
        chunk_size=header["chunk_size"],
        sources=tuple(tuple(text) for text in header["sources"]),
        fingerprint=header["fingerprint"],
        **{name: tensors[name] for name in INTEGERS},
    )


def tensors_of(path: Path, file: Any, header: dict, verify: bool = True) -> dict[str, Tensor]:
    """All tensors of an `opened` memory as the file holds them, memory-mapped: without `verify` bytes are read when they are used.

    Raises:
        UserError: a checksum does not match, or tensors are missing, unexpected, or inconsistent with each other.
    """
    names = {f"{kind}.{i}" for kind in ("keys", "values") for i in range(header["layers"])}
    names |= {f"residuals.{i}" for i in range(header.get("residuals", 0))}
    if header["storage"] == "int8":
        names |= {f"{name}.scale" for name in names}
    names |= INTEGERS.keys() | ({SENTENCES} if "encoder" in header else set())
    # Entry in the file → current name.
    entries = {name: name for name in names}
    if header["format_version"] == 1:
        entries |= {before: entries.pop(name) for before, name in _FIRST_NAMES.items()}
    if set(file.keys()) != entries.keys() or header["checksums"].keys() != entries.keys():
        odd = sorted(entries.keys() ^ (set(file.keys()) & header["checksums"].keys()))
        raise _damaged(path, f"tensors {', '.join(odd)} are missing or unexpected")
    tensors = {entries[entry]: file.get_tensor(entry) for entry in sorted(entries)}
    for entry, name in entries.items() if verify else ():
        if checksum(tensors[name]) != header["checksums"][entry]:
            raise _damaged(path, f"the checksum of {name} does not match")
    wrong = misshapen(header, tensors) or (impossible(header, tensors) if verify else None)
    if wrong is not None:
        raise _damaged(path, wrong)
    return tensors


def heads(
    header: dict, tensors: dict[str, Tensor], name: str, take: Callable[[Tensor], Tensor] = lambda t: t
) -> Tensor:
    """Keys, values or residual streams (B, G, S, D) in the memory's original dtype; `take` selects columns of (B, G, S, D)."""
    tensor = take(tensors[name])
    if header["storage"] == "model":
        return tensor
    scale = take(tensors[f"{name}.scale"][..., None])[..., 0]
    return dequantised(tensor, scale, getattr(torch, header["dtype"]))
