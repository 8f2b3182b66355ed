"""`sharedllm read`: read documents into a memory on disk."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..documents import find
from ..documents.collection import Collection
from ..documents.folder import NoFile
from ..utils.errors import UserError, first_of
from ..utils.text_files import some
from .common import BatchTokensOption, JsonOption, KeepAllOption, ModelOption, note, output_option, print_json

# So many files that could not be read are named; --json names all.
SHOWN = 20


def command(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Documents, folders, globs, or - for standard input. Text, Markdown, code, HTML, PDF, Office, OpenDocument, EPUB, CSV, JSON, notebooks."
        ),
    ],
    output: Annotated[Path, output_option("Memory to write, a folder, usually X.memory.")],
    model: ModelOption = "tiny",
    append: Annotated[
        bool,
        typer.Option("--append", help="Keep the memory's documents, add new files, and continue files that grew."),
    ] = False,
    sync: Annotated[
        bool,
        typer.Option(
            "--sync", help="As --append; also read changed files again, and drop files deleted from a folder."
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Write the memory anew although it holds documents of other files, or every token."
        ),
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Pattern, as in .gitignore, of what to leave out of folders and globs; any number of times."),
    ] = None,
    keep_all: KeepAllOption = False,
    storage: Annotated[
        Literal["model", "int8"] | None,
        typer.Option(help="Format of keys and values on disk: unchanged, the default, or int8 (half the size)."),
    ] = None,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Read documents into a memory that can be asked many times. Files that it holds already are read again.

    In folders, hidden files and what .gitignore names are left out, and files that can't be read are listed at the end.
    Progress is committed every few thousand tokens: interrupted reading continues with --append.
    """
    if replace and (append or sync):
        which = "--append" if append else "--sync"
        raise UserError(
            f"{which} and --replace are both given: leave out --replace to continue a memory, {which} to write it anew."
        )
    # Names are checked before anything slow is imported.
    try:
        found = find(files, exclude or [])
    except NoFile as error:
        if not (output / "manifest.json").exists():
            raise
        raise UserError(f"{error} {output} stays as it is; `sharedllm memory forget` drops documents.") from None
    for pattern in found.unused:
        note(f"--exclude {shlex.quote(pattern)} left nothing out", style="yellow")
    from ..store import MemoryStore
    from . import reading
    from .loading import note_damage

    old = reading.held(output, found, append=append, sync=sync, replace=replace)
    if old is not None:
        reading.check_settings(output, old, keep_all, storage)
    collection = Collection(found)
    damaged = reading.find_damaged(output, old, collection) if old is not None else set()
    collection.known = reading.hashes(old, damaged)
    dropped: list[str] = []
    if sync and old is not None:
        collection.following = frozenset(name for d in old.documents for name in (d.name, d.part_of))
        dropped = reading.deleted(output, old, collection)
    collection.check()
    read = reading.Read()
    if collection.begin():
        settings = {
            "goes_on": old is not None,
            "replaces": replace,
            "keep_all": keep_all,
            "storage": storage,
            "changed": sync,
            "damaged": damaged,
            "batch_tokens": batch_tokens,
        }
        again = "the same command" if append or sync else "the same command with --append"
        again += " instead of --replace" if replace else ""
        # A memory that is begun anew stays as it was until the new one is whole.
        kept = old is not None or not (output / reading.NAME).exists()
        with reading.room(output, goes_on=again if kept else ""):
            read = reading.read_all(output, collection, model, **settings)
    if sync:
        dropped += reading.outdated(output, collection)
    if dropped:
        reading.forget(output, dropped)
    store = MemoryStore.open(output, verify=False)
    reading.note_held(collection, store.documents)
    if json:
        print_json(
            memory=str(output),
            tokens_read=read.tokens,
            tokens=store.tokens,
            kept=int(store.kept),
            bytes=store.nbytes,
            seconds=round(read.seconds, 3),
            documents=len(store.documents),
            new=len(read.new),
            changed=len(read.changed),
            read_again=len(read.again),
            unchanged=len(collection.unchanged),
            dropped=dropped,
            read_as=collection.guessed,
            unreadable=[{"file": file, "reason": reason} for file, reason in collection.unreadable],
        )
        return
    if old is not None:
        if read.again:
            note(f"{some(len(read.again), 'damaged document')} read again: {first_of(read.again)}")
        _tell_changes(read.new, read.changed, collection, dropped)
    _tell_files(collection)
    if read.tokens:
        what = f"read {read.tokens:,} tokens in {read.seconds:.1f} s ({read.tokens / read.seconds:,.0f} tokens/s)"
    else:
        what = "nothing to read" if dropped else "nothing changed"
    holds = f"{int(store.kept):,} of {store.tokens:,} tokens in {store.nbytes / 1e6:.1f} MB"
    note(f"{what}; {output} holds {holds}")
    note_damage(store, output)


def _tell_changes(new: list[str], changed: list[str], collection: Collection, dropped: list[str]) -> None:
    """How the documents of a memory differ from before, on stderr."""
    for names, state in ((new, "new"), (changed, "changed")):
        if names:
            note(f"{some(len(names), 'document')} {state}: {first_of(names)}")
    if collection.unchanged:
        note(f"{some(len(collection.unchanged), 'document')} unchanged")
    gone = [name for name in dropped if name not in collection.emptied]
    for names, why in ((gone, ""), (collection.emptied, ", empty now")):
        if names:
            note(f"dropped {some(len(names), 'document')}{why}: {first_of(names)}")


def _tell_files(collection: Collection) -> None:
    """What was guessed to read files, and which could not be read, on stderr."""
    for file, guess in list(collection.guessed.items())[:SHOWN]:
        note(f"{file}: read as {guess}")
    if len(collection.guessed) > SHOWN:
        note(f"and {len(collection.guessed) - SHOWN} more read in ways that were guessed; --json names all")
    if collection.unreadable:
        note(f"{some(len(collection.unreadable), 'file')} could not be read:", style="yellow")
        for file, reason in collection.unreadable[:SHOWN]:
            note(f"  {reason if file in reason else f'{file}: {reason}'}")
        if len(collection.unreadable) > SHOWN:
            note(f"  and {len(collection.unreadable) - SHOWN} more; --json names all")
