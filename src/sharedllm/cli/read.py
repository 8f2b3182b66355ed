"""`sharedllm read`: read documents into a memory on disk."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..documents import find
from ..documents.collection import Collection
from ..utils.errors import UserError
from .common import BatchTokensOption, JsonOption, KeepAllOption, ModelOption, note, print_json

# So many files that could not be read are named; --json names all.
SHOWN = 20


def command(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Documents, folders, globs, or - for standard input. Text, Markdown, code, HTML, PDF, DOCX, EPUB, CSV, JSON, JSONL."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Memory to write, a folder, usually X.memory.")],
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
        bool, typer.Option("--replace", help="Write the memory anew although it holds documents of other files.")
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
    start = time.perf_counter()
    if replace and (append or sync):
        which = "--append" if append else "--sync"
        raise UserError(f"{which} and --replace are both given: a memory is continued, or written anew.")
    # Names are checked before anything slow is imported.
    found = find(files, exclude or [])
    from ..store import MemoryStore
    from . import reading

    old = reading.held(output, found, append=append, sync=sync, replace=replace)
    if old is not None:
        reading.check_settings(output, old, keep_all, storage)
    known = reading.hashes(old)
    collection = Collection(found, known)
    dropped = reading.deleted(output, old, collection) if sync and old is not None else []
    collection.check()
    read = 0
    if collection.begin():
        settings = {"keep_all": keep_all, "storage": storage, "changed": sync, "batch_tokens": batch_tokens}
        read = reading.read_all(output, collection, model, goes_on=old is not None, **settings)
    if dropped:
        reading.forget(output, dropped)
    store = MemoryStore.open(output, verify=False)
    seconds = time.perf_counter() - start
    if json:
        print_json(
            memory=str(output),
            tokens_read=read,
            tokens=store.tokens,
            kept=int(store.kept),
            bytes=store.nbytes,
            seconds=round(seconds, 3),
            documents=len(store.documents),
            unchanged=len(collection.unchanged),
            dropped=dropped,
            read_as=collection.guessed,
            unreadable=[{"file": file, "reason": reason} for file, reason in collection.unreadable],
        )
        return
    _tell(collection, dropped)
    note(
        f"read {read:,} tokens in {seconds:.1f} s ({read / seconds:,.0f} tokens/s); {output} holds "
        f"{int(store.kept):,} of {store.tokens:,} tokens in {store.nbytes / 1e6:.1f} MB"
    )


def _tell(collection: Collection, dropped: list[str]) -> None:
    """What was left out, and why, on stderr."""
    if collection.unchanged:
        note(f"{_some(len(collection.unchanged), 'document')} unchanged")
    if dropped:
        note(f"dropped {_some(len(dropped), 'document')}: {', '.join(dropped[:5])}{', …' if len(dropped) > 5 else ''}")
    for file, guess in list(collection.guessed.items())[:SHOWN]:
        note(f"{file}: read as {guess}")
    if len(collection.guessed) > SHOWN:
        note(f"and {len(collection.guessed) - SHOWN} more in guessed encodings; --json names all")
    if collection.unreadable:
        note(f"{_some(len(collection.unreadable), 'file')} could not be read:", style="yellow")
        for file, reason in collection.unreadable[:SHOWN]:
            note(f"  {reason if file in reason else f'{file}: {reason}'}")
        if len(collection.unreadable) > SHOWN:
            note(f"  and {len(collection.unreadable) - SHOWN} more; --json names all")


def _some(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
