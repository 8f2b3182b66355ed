"""Opens a memory by its name: a file of `save_memory`, a folder of `sharedllm read`, or what `ELSEWHERE` knows, such as the
corpora of `sharedllm read-corpus`. No other code asks which of them it is."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..memory.interface import Memory
from ..memory.opening import open_file, read_header
from ..utils.errors import UserError, as_path, refusal
from ..utils.files import is_uri, there
from ..utils.registry import Registry
from .manifest import NAME, Manifest, read_manifest
from .store import MemoryStore

# Kinds of memories that are no file and no folder of blocks. An entry has `recognised`, `look`, `open` and `check`.
ELSEWHERE = Registry("memory of kind {}")
ELSEWHERE.add(
    "corpus", "sharedllm.corpus.opening:KIND", "documents that many workers read, in a folder or an object store"
)


@dataclass(frozen=True)
class Label:
    """Information about a memory on disk before it is opened.

    kind         "memory", a folder; "memory file"; or one of `ELSEWHERE`
    fingerprint  of the model that made it; "" if unknown
    tokenizer    identifies the vocabulary; "" for a file saved without it
    storage      of keys and values: "model" or "int8"
    state        two equal states mean that nothing has changed in between
    model        the last part of its name; "" if unknown
    """

    kind: str
    fingerprint: str
    tokenizer: str
    storage: str
    state: Manifest | str
    model: str = ""


def is_memory(name: str | Path) -> bool:
    """Whether a name is a memory's: a URI, a path with the suffix .memory, or a folder with a manifest.

    Raises:
        UserError: a folder may not be looked into.
    """
    if is_uri(name) or Path(name).suffix == ".memory":
        return True
    try:
        return (Path(name) / NAME).is_file() or _elsewhere(name) is not None
    except PermissionError as error:
        raise UserError(f"{name} can't be read: {refusal(error)}.") from None


def _elsewhere(name: str | Path) -> Any:
    """The kind of `ELSEWHERE` that a name belongs to; None if there is none."""
    # Their libraries are imported only for what can be theirs.
    path = as_path("path", name)
    if not is_uri(name) and (path.suffix == ".memory" or not there(path) or (path / NAME).is_file()):
        return None
    return next((kind for kind in ELSEWHERE.values() if kind.recognised(name)), None)


def look(path: str | Path) -> Label:
    """
    Raises:
        UserError: as `open_memory`, but tensors are not checked.
    """
    kind = _elsewhere(path)
    if kind is not None:
        return kind.look(path)
    path = as_path("path", path)
    if not there(path) or path.is_dir():
        manifest = read_manifest(path)
        return Label("memory", manifest.fingerprint, manifest.tokenizer, manifest.storage, manifest, manifest.model)
    header = read_header(path)
    return Label("memory file", header["fingerprint"], header["tokenizer"], header["storage"], header["checksum"])


def open_memory(
    path: str | Path,
    *,
    fingerprint: str | None = None,
    tokenizer: str | None = None,
    verify: bool = True,
    sound: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Memory:
    """Open a memory: a `ContextMemory` for a file of `save_memory`, a `MemoryStore` for a folder of `sharedllm read`, a `Corpus`
    for a URI or folder of `sharedllm read-corpus`.

    If they hold every token, both can be selected from (`model.select`, `Chat`). `load()` of both gives the argument
    for `generate(memory=…)`.

    Args:
        fingerprint: of the model that will use it (`model.fingerprint()`); None skips the comparison.
        tokenizer: identifies its tokenizer; None skips the comparison. A file saved without one is not compared.
        verify: read every byte and compare checksums. A folder's damaged blocks are left out and named in `damaged`; a
            damaged file is refused.
        sound: blocks of a folder that are not read again: `MemoryStore.sound` of it when it was opened before.
        progress: called with the number of tokens opened since the last call, and the total.

    Raises:
        UserError: not a memory, or one that is damaged, of a newer format, or of another model or tokenizer.
    """
    kind = _elsewhere(path)
    if kind is not None:
        return kind.open(path, fingerprint=fingerprint, tokenizer=tokenizer, progress=progress)
    label = look(path)
    if Path(path).is_dir():
        options: dict[str, Any] = {"verify": verify, "sound": sound, "progress": progress}
        return MemoryStore.open(path, fingerprint=fingerprint, tokenizer=tokenizer, **options)
    memory = open_file(path, fingerprint=fingerprint, tokenizer=tokenizer if label.tokenizer else None, verify=verify)
    if progress is not None:
        progress(memory.tokens, memory.tokens)
    return memory


def check(path: str | Path, progress: Callable[[int, int], None]) -> Iterator[str]:
    """Read every byte of a memory and compare checksums: a line for all that is lost.

    Args:
        progress: called with the number of tokens read since the last call, and the total.

    Raises:
        UserError: as `open_memory`.
    """
    kind = _elsewhere(path)
    if kind is not None:
        return kind.check(path, progress)
    return map(str, open_memory(path, progress=progress).damaged)
