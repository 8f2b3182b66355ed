"""A server's memories are made and removed, and documents read into them and removed. Only the worker's thread does this."""

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..documents.places import Origin
from ..memory.fingerprint import tokenizer_fingerprint
from ..memory.interface import Searched
from ..store.opening import look, open_memory
from ..store.ownership import remove
from ..store.writer import Changed, Writer, writing
from ..utils.errors import UserError, is_full, refusal, shown
from ..utils.text_files import pieces_of
from .errors import ServingError, invalid
from .memories import Memories
from .opened import Opened


def make_memory(
    memories: Memories, name: str, model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Make a memory without documents in the folder. Returns its description.

    Args:
        name: one that `names.check_memory` takes.

    Raises:
        ServingError: the name is taken, by a memory or by anything else in the folder; or the disk is full.
    """
    assert memories.folder is not None
    path = memories.folder / f"{name}.memory"
    # A copy of the folder on another system may take letters in upper and lower case, or accents, for the same.
    taken = [name] if name in memories.names else [p.stem for p in memories.folder.glob("*") if _alike(p, path)]
    if taken:
        by = "" if name in taken else f" by {taken[0]!r}, which many systems take for the same name"
        raise ServingError(409, f"name={name!r} is taken{by}: choose another name.", "name")
    with full_disk_named(f"{memories.folder}"), ExitStack() as stack:
        try:
            writer = stack.enter_context(writing(path))
        except UserError as error:
            raise ServingError(409, str(error), "name") from None
        if writer.manifest is not None:  # another process was faster
            raise ServingError(409, f"name={name!r} is taken: choose another name.", "name")
        writer.begin(model, tokenizer_fingerprint(tokenizer))
        writer.commit()
    label = look(path)
    memory = open_memory(path, fingerprint=label.fingerprint, tokenizer=label.tokenizer)
    memories.put(name, Opened(path, label, memory))
    return memories.described(name)


def remove_memory(memories: Memories, name: str) -> dict[str, Any]:
    """Delete a memory of the server's folder. Returns what was deleted.

    Raises:
        ServingError: no such memory, it is not one of the folder's, another process is writing to it, or the system refuses it.
    """
    if not memories.removable(name):
        why = f"memory={name!r} is none that this server keeps in its folder (`--folder`): remove it where it is."
        raise ServingError(403, why, "memory")
    path = memories[name].path
    assert isinstance(path, Path)
    try:
        remove(path)
    except UserError as error:
        raise ServingError(409, str(error), "memory") from None
    except OSError as error:
        raise ServingError(409, f"memory={name!r} can't be deleted: {refusal(error)}.", "memory") from None
    memories.drop(name)
    return {"id": name, "object": "memory", "deleted": True}


def add_document(
    memories: Memories,
    name: str,
    document: str,
    text: str,
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int], None],
    *,
    origin: Origin | None = None,
    replaces: bool = False,
) -> dict[str, Any]:
    """Read a document into a memory. Returns a description of the memory.

    Args:
        origin: of a document that is a file: it is in the memory once it is whole. Without it, an existing document
            continues where it ended. replaces: a file takes the place of a document of its name.

    Raises:
        ServingError: no such memory, another process is writing to it, the disk is full, a file's name is taken, or a
            text does not begin with the text read earlier under this name.
        Whatever `progress` raises; of a text what was read so far stays, as an unfinished document.
    """
    if not text.strip():
        raise invalid("text", f"text={shown(text, 20)} is empty: send the text to read.")
    file = origin is not None

    def change(writer: Writer) -> None:
        old = next((d for d in writer.present().documents if d.name == document), None)
        if file and old is not None and old.finished and not replaces:
            raise _taken(name, document)
        pieces = pieces_of(text)
        try:
            writer.read(model, tokenizer, document, pieces, origin=origin, anew=file, progress=progress)
        except Changed:
            assert old is not None
            raise _other_text(document, old.characters) from None

    return _changed(memories, name, change)


def check_free(memories: Memories, name: str, document: str, replaces: bool) -> None:
    """
    Raises:
        ServingError: no such memory, it can no longer be asked, or it has a document of that name.
    """
    there = {d["name"] for d in memories.current(name).contents if d.get("finished", True)}
    if document in there and not replaces:
        raise _taken(name, document)


def remove_document(memories: Memories, name: str, document: str) -> dict[str, Any]:
    """Remove a document from a memory. Returns a description of the memory.

    Raises:
        ServingError: no such memory or document, or another process is writing to it.
    """

    def change(writer: Writer) -> None:
        try:
            writer.forget(document)
        except UserError as error:
            raise ServingError(404, str(error), "document") from None

    return _changed(memories, name, change)


def _changed(memories: Memories, name: str, change: Callable[[Writer], None]) -> dict[str, Any]:
    """The description of a memory after a change of its documents."""
    if isinstance(memories[name].memory, Searched):
        raise ServingError(409, f"memory={name!r} is a corpus: change it with `sharedllm read-corpus`.", "memory")
    with memories.changing(name), full_disk_named(f"memory={name!r}"), ExitStack() as stack:
        try:
            writer = stack.enter_context(writing(memories[name].path))
        except UserError as error:
            raise ServingError(409, str(error), "memory") from None
        change(writer)
    return memories.described(name)


@contextmanager
def full_disk_named(what: str) -> Iterator[None]:
    """
    Raises:
        ServingError: the disk of something is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise ServingError(507, f"the disk of {what} is full: free space, then send it again.") from None


def _alike(first: Path, second: Path) -> bool:
    """Whether two files may have one name on a system that does not tell upper from lower case, or forms of accents."""
    one, other = (
        unicodedata.normalize("NFC", unicodedata.normalize("NFC", p.name).casefold()) for p in (first, second)
    )
    return one == other


def _taken(name: str, document: str) -> ServingError:
    message = (
        f"document={shown(document)} is in memory={name!r} already: replace it (replace=true), or choose another name."
    )
    return ServingError(409, message, "document")


def _other_text(document: str, characters: int) -> ServingError:
    return invalid(
        "text",
        f"text does not begin with the {characters:,} characters that were read as {shown(document)}: send the whole text, of "
        "which only what follows them is read; or remove the document first, or choose another name.",
    )
