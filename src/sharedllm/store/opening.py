"""Opens a memory by its path: a file of `save_memory` or a folder of `sharedllm read`. No other code asks which of the
two it is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..memory.file import open_file, read_header
from ..memory.interface import Memory
from ..utils.errors import as_path
from ..utils.files import there
from .manifest import NAME, Manifest, read_manifest
from .store import MemoryStore


@dataclass(frozen=True)
class Label:
    """Information about a memory on disk before it is opened.

    kind         "memory", a folder, or "memory file"
    fingerprint  of the model that made it; "" if unknown
    tokenizer    identifies the vocabulary; "" for a file saved without it
    storage      of keys and values: "model" or "int8"
    state        two equal states mean that nothing has changed in between
    """

    kind: str
    fingerprint: str
    tokenizer: str
    storage: str
    state: Manifest | str


def is_memory(name: str | Path) -> bool:
    """Whether a path names a memory: it has the suffix .memory, or is a folder with a manifest."""
    return Path(name).suffix == ".memory" or (Path(name) / NAME).is_file()


def look(path: str | Path) -> Label:
    """
    Raises:
        UserError: as `open_memory`, but tensors are not checked.
    """
    path = as_path("path", path)
    if not there(path) or path.is_dir():
        manifest = read_manifest(path)
        return Label("memory", manifest.fingerprint, manifest.tokenizer, manifest.storage, manifest)
    header = read_header(path)
    return Label("memory file", header["fingerprint"], header["tokenizer"], header["storage"], header["checksum"])


def open_memory(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    verify: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Memory:
    """Open a memory: a `ContextMemory` for a file of `save_memory`, a `MemoryStore` for a folder of `sharedllm read`.

    If they hold every token, both can be selected from (`model.select`, `Chat`). `load()` of both gives the argument
    for `generate(memory=…)`.

    Args:
        fingerprint: of the model that will use it (`model.fingerprint()`); None skips the comparison.
        tokenizer: identifies its tokenizer; None skips the comparison. A file saved without one is not compared.
        verify: read every byte and compare checksums. A folder's damaged blocks are left out and named in `damaged`; a
            damaged file is refused.
        progress: called with the number of tokens opened since the last call, and the total.

    Raises:
        UserError: not a memory, or one that is damaged, of a newer format, or of another model or tokenizer.
    """
    label = look(path)
    if Path(path).is_dir():
        return MemoryStore.open(path, fingerprint=fingerprint, tokenizer=tokenizer, verify=verify, progress=progress)
    memory = open_file(path, fingerprint=fingerprint, tokenizer=tokenizer if label.tokenizer else None, verify=verify)
    if progress is not None:
        progress(memory.tokens, memory.tokens)
    return memory
