"""What `sharedllm read` does with a memory: what it holds already, what is read, and what is dropped. Imports torch."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..documents import Found
from ..documents.collection import Collection
from ..documents.folder import inside
from ..store import MemoryStore
from ..store.blocks import BlockFile
from ..store.manifest import NAME, Document, Manifest, read_manifest
from ..store.ownership import check_ours
from ..store.writer import Changed, writing
from ..utils.errors import ITS_MODEL, UserError, no_room
from ..utils.text_files import readable, some
from .common import check_no_corpus, note, progress_bar
from .forecast import Forecast, Shown
from .loading import load, tokenizer_fingerprint


def held(output: Path, found: Found, *, append: bool, sync: bool, replace: bool) -> Manifest | None:
    """The memory that reading goes on with; None begins a new one.

    Raises:
        UserError: there is a corpus, no memory to append to, one whose documents are not read again, or a name where no
            memory can be written.
    """
    anew = not (output / NAME).exists()
    if anew:
        check_no_corpus(output)
    check_ours(output)
    if anew and append:
        raise UserError(f"{output} holds no memory to append to: leave out --append.")
    if anew or replace:
        return None
    manifest = read_manifest(output)
    if append or sync:
        return manifest
    given = {readable(file) for file in found.files}
    lost = [document.name for document in manifest.documents if document.name not in given]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(f"{output} holds {lost[0]}{more}: --append adds to it, --replace writes it anew.")
    return None


def check_settings(output: Path, manifest: Manifest, keep_all: bool, storage: str | None) -> None:
    """Refuse settings that a memory can't change."""
    if keep_all and not manifest.complete:
        raise UserError(
            f"{output} does not hold every token, so --keep-all can't be turned on: leave it out, or write the memory anew "
            "with --replace."
        )
    if storage not in (None, manifest.storage):
        raise UserError(
            f"{output} has --storage {manifest.storage}, which stays: leave --storage out, or write the memory anew with "
            "--replace."
        )


def hashes(manifest: Manifest | None, damaged: set[str]) -> dict[str, str]:
    """Name of a finished document, none of those `damaged`, → hash of its file when it was read."""
    documents = manifest.documents if manifest is not None else ()
    return {d.name: d.origin.sha256 for d in documents if d.finished and d.origin is not None and d.name not in damaged}


def find_damaged(output: Path, manifest: Manifest, collection: Collection) -> set[str]:
    """The names of a memory's documents that have lost a part, among those whose files are given. Reads all their blocks."""
    given = set(collection.names)
    theirs = tuple(document for document in manifest.documents if document.name in given)
    opens = partial(BlockFile, output, manifest=manifest, verify=True)
    store = MemoryStore.of(output, replace(manifest, documents=theirs), opens, missing=True)
    return {lost.document for lost in store.damaged}


def check_anew(output: Path, manifest: Manifest, keep_all: bool) -> None:
    """Refuse to begin a memory anew that would hold less than the one that is there. Says what is read again of documents
    whose reading was interrupted."""
    if manifest.complete and manifest.documents and not keep_all:
        raise UserError(
            f"{output} keeps every token, and begun anew without --keep-all it would not: add --keep-all, go on with --append, or "
            "give it up with --replace."
        )
    left = sum(document.tokens for document in manifest.documents if not document.finished)
    if left:
        note(f"{output} was read in part: with --append this would go on after {some(left, 'token')}; it begins anew")


def deleted(output: Path, manifest: Manifest, collection: Collection) -> list[str]:
    """The documents whose files are gone from the folders that were named. Documents that were not read from files stay.

    Raises:
        UserError: the memory holds documents, but none of the folders', as if they were named in another way.
    """
    folders, there = collection.found.folders, set(collection.names)
    below = [d for d in manifest.documents if any(inside(d.name, folder) for folder in folders)]
    if manifest.documents and folders and not below:
        raise UserError(
            f"{output} holds no document of {', '.join(filter(None, folders)) or 'this folder'}, but "
            f"{manifest.documents[0].name}: name the folder as it was read, or add it with --append."
        )
    for folder in folders:
        gone = [d.name for d in below if inside(d.name, folder)]
        if gone and not any(inside(name, folder) for name in there):
            raise UserError(
                f"{folder or 'this folder'} holds no file now, but {output} has {len(gone)} of its documents: is a disk missing? "
                f"{output} stays as it is; `sharedllm memory forget {output} NAME` drops them."
            )
    # What can't be listed now is not gone.
    hidden = [readable(path) for path, _ in collection.found.unreadable]
    return [
        d.name
        for d in below
        if d.name not in there
        and d.origin is not None
        and d.origin.sha256
        and not any(d.name == path or inside(d.name, path) for path in hidden)
    ]


def outdated(output: Path, collection: Collection) -> list[str]:
    """The documents whose files are empty now, and the parts that `memory recover` saved without their beginning of documents
    that are empty or held as a whole now."""
    documents, emptied = read_manifest(output).documents, set(collection.emptied)
    whole = {document.name for document in documents if document.finished}.intersection(collection.names)
    return [d.name for d in documents if d.name in emptied or d.part_of in emptied | whole]


def note_held(collection: Collection, documents: Iterable[Document]) -> None:
    """Say of each file that can't be read, or each folder that can't be listed, that former text of it stays."""
    names = [document.name for document in documents]
    for i, (path, reason) in enumerate(collection.unreadable):
        if any(name == path or inside(name, path) for name in names):
            collection.unreadable[i] = path, f"{reason.removesuffix('.')}; its former text stays in the memory."


def forget(output: Path, names: list[str]) -> None:
    """Remove documents from a memory."""
    with writing(output) as writer:
        writer.forget(*names)


@dataclass
class Read:
    """What was read: tokens, in how many seconds, without loading the model, and the names of documents that the memory
    did not have whole before, of those that have other text now than what was read, and of damaged ones, read again."""

    tokens: int = 0
    seconds: float = 0.0
    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


def read_all(
    output: Path,
    collection: Collection,
    model: str,
    *,
    goes_on: bool,
    replaces: bool,
    keep_all: bool,
    storage: Any,
    changed: bool,
    damaged: set[str],
    batch_tokens: int | None,
) -> Read:
    """Read the documents of a collection into a memory. A document whose file was not known turns out to be unchanged here.

    Args:
        goes_on: into the memory that is there; else a new one. replaces: whatever the one that is there holds.
        changed: read changed documents again.
        damaged: names of documents that have lost a part; these are read again, and replaced once they are whole.

    Raises:
        UserError: the memory is another model's or would hold less than before, or a document changed and `changed` is not set.
    """
    loaded, tokenizer = load(model, output if goes_on else "")
    start = time.perf_counter()
    # A model that reads selected tokens deeper always selects.
    keep_all = keep_all or loaded.config.injection == "deep"
    mark, read = tokenizer_fingerprint(tokenizer), Read()
    with writing(output) as writer, progress_bar(f"reading {collection.label}", collection.nbytes or None) as advance:
        if not goes_on:
            if writer.manifest is not None and not replaces:
                check_anew(output, writer.manifest, keep_all)
            writer.begin(loaded, mark, keep_all=keep_all, storage=storage or "model")
        else:
            there = writer.present()
            check_settings(output, there, keep_all, storage)
            if (there.fingerprint, there.tokenizer) != (loaded.fingerprint(), mark):
                other = "with another tokenizer" if there.tokenizer != mark else "by another model"
                raise UserError(f"{output} was made {other}: {ITS_MODEL}, or --replace it.")
        before = {document.name for document in writer.present().documents if document.finished}
        shown = Shown(collection, writer, Forecast(output, writer.present()), advance)
        for opened in collection.rest():
            name = _name({document.name for document in writer.present().documents}, opened.path)
            shown.begin(name, opened.nbytes, opened.characters, anew=name in damaged)
            options = {"origin": opened.origin, "batch_tokens": batch_tokens, "progress": shown.tokens}
            try:
                new = writer.read(loaded, tokenizer, name, opened.pieces(), anew=name in damaged, **options)
            except Changed as error:
                if not changed:
                    raise UserError(f"{error} Or read it with --sync, which takes changed files up.") from None
                new = writer.read(loaded, tokenizer, name, opened.pieces(), anew=True, **options)
                before.add(name)  # also of a text that was read in part
            shown.done()
            read.tokens += new
            if name in damaged:
                read.again.append(name)
            elif not new:
                collection.unchanged.append(name)
            else:
                (read.changed if name in before else read.new).append(name)
        advance(0, collection.nbytes or None)  # without the last files too, if they were left out
        writer.commit()
    read.seconds = time.perf_counter() - start
    return read


@contextmanager
def room(output: Path, *, goes_on: str = "") -> Iterator[None]:
    """Says how to go on where a memory has no room to grow, or the user stops it.

    Args:
        goes_on: the command that goes on with what was read; "" if nothing of it is kept, as where a memory stays until it is
            replaced.

    Raises:
        UserError: the disk or a quota is full, or a file would be larger than allowed.
    """
    try:
        yield
    except KeyboardInterrupt:
        if goes_on and (output / NAME).exists():
            note(f"what was read is kept: {goes_on} goes on")
        raise
    except OSError as error:
        then = {"then": f"{goes_on} goes on"} if goes_on and (output / NAME).exists() else {}
        if (said := no_room(output, error, **then)) is None:
            raise
        raise UserError(said) from error


def _name(taken: set[str], path: str) -> str:
    """A document's name: the file's, as text; standard input gets a new name each time."""
    if path != "-":
        return path if path in taken else readable(path)
    names = ["standard input", *(f"standard input {i}" for i in range(2, len(taken) + 3))]
    return next(n for n in names if n not in taken)
