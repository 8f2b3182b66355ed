"""A ContextMemory on disk: one safetensors file with a JSON header, written atomically; `opening` opens and checks it.

The header is the entry "sharedllm" of the safetensors metadata: format and version, fingerprint of the model that made
the memory, fingerprint of its tokenizer, chunk size, sources, a SHA-256 of each tensor and one of the header itself, so
that every flipped byte is noticed. Nothing in the file is ever executed.

With storage "int8" each token's keys and values are kept as 8-bit integers, head by head, with a float32 scale
`keys.0.scale` (B, G, S): reading gives scale · integer, in the memory's original dtype.
"""

import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..utils.errors import UserError, as_path, named_type, number_of
from ..utils.fields import misfit_of
from ..utils.files import put
from ..utils.scratch import scratch
from .context_memory import ContextMemory
from .fingerprint import raw_bytes
from .int8 import quantised
from .schema import HEADER, OPTIONAL, SENTENCES, SOURCES
from .segment import Stored

FORMAT = "sharedllm.memory"
VERSION = 3
# What files without embedded sentences say, which earlier versions of the package can read.
_WITHOUT_SENTENCES = 2
Storage = Literal["model", "int8"]


def checksum(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def header_checksum(header: dict) -> str:
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
    tokenizer: str | None = "",
    storage: Storage = "model",
    embedded: Stored | None = None,
) -> str:
    """Write a memory to one file. An existing memory of that name stays whole until the new one is complete.

    Args:
        tokenizer: identifies the tokenizer of the ids, compared when the file is opened; "" or None if unknown.
        storage: "model" keeps keys and values as they are, "int8" rounds them to 8 bits, half the size of 16.
        embedded: the sentences of its pieces.

    Returns:
        The checksum of the header, which identifies the whole content of the file.

    Raises:
        UserError: no such storage, the folder does not exist, the path is a folder or a file that is not a memory, or the sources
            can't be written as JSON, or another field is of a wrong type.
        OSError: the file can't be written, for lack of space or permission.
    """
    path = as_path("path", path)
    if not isinstance(memory, ContextMemory):
        raise UserError(f"memory is {named_type(memory)}: pass a memory that `read` gave.")
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
        "tokenizer": "" if tokenizer is None else tokenizer,
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
    # A file with such a field could never be opened.
    wrong = misfit_of(header, HEADER, OPTIONAL | {"checksum"})
    if wrong is not None:
        raise UserError(
            f"the memory can't be saved: {wrong}; pass a memory that `read` gave, and as tokenizer its fingerprint."
        )
    header["checksum"] = header_checksum(header)
    try:
        # A folder: save_file writes to a temporary name of its own first.
        with scratch(path.parent) as folder:
            temporary = folder / "made"  # the lock beside it may have the name of `path`
            temporary.touch()
            mode = (path if path.is_file() else temporary).stat().st_mode & 0o777
            save_file(tensors, temporary, metadata={"sharedllm": json.dumps(header)})
            temporary.chmod(mode)  # save_file makes a file that only its owner may read
            put(temporary, path)
    except SafetensorError as error:
        # The system's number tells a full disk from other faults.
        if (number := number_of(error)) is None:
            raise OSError(f"{path} can't be written: {error}") from error
        raise OSError(number, str(error), str(path)) from error
    return header["checksum"]


def _ours(path: Path) -> bool:
    """Whether a file is a memory, of whatever version, or empty."""
    try:
        with safe_open(path, framework="pt") as file:
            return "sharedllm" in (file.metadata() or {})
    except SafetensorError:
        return path.stat().st_size == 0
