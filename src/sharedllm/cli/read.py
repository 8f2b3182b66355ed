"""`sharedllm read`: read text files into a memory on disk."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..utils.errors import UserError
from ..utils.text_files import check_file, expand, readable, text_pieces
from .common import BatchTokensOption, JsonOption, KeepAllOption, ModelOption, note, print_json, progress_bar


def command(
    files: Annotated[list[str], typer.Argument(help="Text files, globs, or - for standard input.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Memory to write, a folder, usually X.memory.")],
    model: ModelOption = "tiny",
    append: Annotated[
        bool,
        typer.Option("--append", help="Keep the memory's documents, add new files, and continue files that grew."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write the memory anew although it holds documents of other files.")
    ] = False,
    keep_all: KeepAllOption = False,
    storage: Annotated[
        Literal["model", "int8"] | None,
        typer.Option(help="Format of keys and values on disk: unchanged, the default, or int8 (half the size)."),
    ] = None,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Read text files into a memory that can be asked many times. Files that it holds already are read again.

    Progress is committed every few thousand tokens: interrupted reading continues with --append.
    """
    names = expand(files)
    for name in names:
        # Check all files before anything is written.
        check_file(name)
    if append and replace:
        raise UserError("--append and --replace are both given: a memory is continued, or written anew.")
    from ..store import MemoryStore
    from ..store.writer import writing
    from .loading import load, tokenizer_fingerprint

    if not append and not replace:
        _check_lost(output, names)
    loaded, tokenizer = load(model)
    # A model that reads selected tokens deeper always selects.
    keep_all = keep_all or loaded.config.injection == "deep"
    start, read = time.perf_counter(), 0
    with writing(output) as writer:
        if not append:
            writer.begin(loaded, tokenizer_fingerprint(tokenizer), keep_all=keep_all, storage=storage or "model")
        elif writer.manifest is None:
            raise UserError(f"{output} holds no memory to append to: leave out --append.")
        elif keep_all and not writer.manifest.complete:
            raise UserError(f"{output} does not hold every token: --keep-all can't be turned on with --append.")
        elif storage not in (None, writer.manifest.storage):
            raise UserError(f"{output} has storage={writer.manifest.storage!r}: --append keeps that storage.")
        elif writer.manifest.tokenizer != tokenizer_fingerprint(tokenizer):
            raise UserError(f"{output} was made with another tokenizer: read its texts again with this one.")
        for name in names:
            size = Path(name).stat().st_size if name != "-" else None
            taken = {document.name for document in writer.present().documents}
            with progress_bar(f"reading {name}", size) as advance:
                pieces = _counted(text_pieces(name), advance)
                read += writer.read(loaded, tokenizer, _name(taken, name), pieces, batch_tokens=batch_tokens)
        writer.commit()
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
        )
    else:
        note(
            f"read {read:,} tokens in {seconds:.1f} s ({read / seconds:,.0f} tokens/s); {output} holds "
            f"{int(store.kept):,} of {store.tokens:,} tokens in {store.nbytes / 1e6:.1f} MB"
        )


def _check_lost(output: Path, names: list[str]) -> None:
    """Refuse to write over documents that are not read again."""
    from ..store.manifest import NAME, read_manifest

    if not (output / NAME).exists():
        return
    given = {readable(name) for name in names}
    lost = [document.name for document in read_manifest(output).documents if document.name not in given]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise UserError(f"{output} holds {lost[0]}{more}: --append adds to it, --replace writes it anew.")


def _name(taken: set[str], name: str) -> str:
    """A document's name: the file's, as text; standard input gets a new name each time."""
    if name != "-":
        return name if name in taken else readable(name)
    names = ["standard input", *(f"standard input {i}" for i in range(2, len(taken) + 3))]
    return next(n for n in names if n not in taken)


def _counted(pieces: Iterator[str], advance) -> Iterator[str]:
    for piece in pieces:
        yield piece
        advance(len(piece.encode()))
