"""Opening a memory's file: its header, then its tensors, each checked before it is used."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..utils.errors import ITS_MODEL, UserError, as_path, refusal
from ..utils.fields import misfit_of
from ..utils.files import there
from .context_memory import ContextMemory
from .file import FORMAT, VERSION, checksum, header_checksum
from .int8 import dequantised
from .schema import HEADER, INTEGERS, OPTIONAL, SENTENCES, impossible, misshapen

# Entries that had another name in format version 1, which can still be read.
_FIRST_NAMES = {"ratio": "stride"}


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
    path = as_path("path", path)
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
    if type(made_as) is not int or made_as not in range(1, VERSION + 1):
        raise UserError(f"{path} has format_version={made_as!r}, this package reads 1 … {VERSION}: upgrade sharedllm.")
    wrong = misfit_of(header, HEADER, OPTIONAL)
    if wrong is not None:
        raise _damaged(path, f"in its header {wrong}")
    if header["checksum"] != header_checksum(header):
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
    path = as_path("path", path)
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
