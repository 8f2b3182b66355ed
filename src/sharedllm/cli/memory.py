"""`sharedllm memory`: change and check memories."""

from pathlib import Path
from typing import Annotated

import typer

from ..utils.errors import UserError
from ..utils.text_files import harmless
from .common import (
    ModelOption,
    check_no_corpus,
    check_source,
    given_path,
    note,
    note_repair,
    output_option,
    progress_bar,
)
from .naming import NamedCommand

app = typer.Typer(help="Remove documents from a memory, merge memories, check or recover one.", no_args_is_help=True)

MemoryArgument = Annotated[Path, typer.Argument(parser=given_path, metavar="<path>", help="A memory.")]


@app.command(cls=NamedCommand)
def forget(
    memory: MemoryArgument,
    names: Annotated[list[str], typer.Argument(help="Documents, as `sharedllm info` lists them.")],
) -> None:
    """Remove documents from a memory."""
    _check_folder(memory)
    from ..store.manifest import read_manifest
    from ..store.writer import writing

    read_manifest(memory)  # a wrong name must not create a store
    with writing(memory) as writer:
        writer.forget(*names)
    _report(memory)


@app.command(cls=NamedCommand)
def merge(
    memories: Annotated[list[Path], typer.Argument(parser=given_path, metavar="<path>", help="Memories of one model.")],
    output: Annotated[Path, output_option("Memory to write; the others are not changed.")],
) -> None:
    """Merge memories into a new one. Nothing is read again, and each document keeps its name and offsets."""
    for number, memory in enumerate(memories):
        _check_folder(memory)
        if memory.resolve() in {earlier.resolve() for earlier in memories[:number]}:
            raise UserError(f"{memory} is named twice: name each memory once.")
    from ..store.writer import writing
    from .reading import room

    _check_new(output)
    with room(output), writing(output) as writer:
        for memory in memories:
            writer.merge(memory)
        writer.commit()
    _report(output)


@app.command(cls=NamedCommand)
def recover(
    memory: Annotated[
        Path,
        typer.Argument(
            parser=given_path,
            metavar="<path>",
            help="A memory whose manifest.json or blocks are missing or damaged; it is not changed.",
        ),
    ],
    output: Annotated[Path, output_option("Memory to write.")],
    model: ModelOption = "tiny",
) -> None:
    """Make a new memory from the remaining blocks of a memory.

    A block stores its document's name and its place in it. If one is missing, the text after it becomes a separate document. An
    undamaged manifest.json says which blocks are taken; what it names and is lost is listed.
    Of --model only the tokenizer is read: the new memory can be asked with the model that made the old one, and with no other.
    """
    _check_folder(memory, lost=True)
    from ..store.recover import recover as recover_blocks
    from ..utils.checkpoints import load_tokenizer
    from .loading import quiet, tokenizer_fingerprint
    from .reading import room

    _check_new(output)
    quiet()
    tokenizer = load_tokenizer(model)
    with room(output):
        recover_blocks(memory, output, tokenizer, tokenizer_fingerprint(tokenizer), note)
    _report(output)


@app.command(cls=NamedCommand)
def check(memory: Annotated[str, typer.Argument(help="A memory, a corpus or its URI.")]) -> None:
    """Read every byte of a memory and compare checksums; exit code 1 if something is lost."""
    check_source(memory)
    from ..corpus.opening import recognised
    from ..store import check as lost_of

    with progress_bar(f"checking {memory}", None) as advance:
        lost = list(lost_of(memory, advance))
    for line in lost:
        print(harmless(line))
    if lost:
        if not recognised(memory):  # a corpus says it for every object
            note_repair(memory)
        raise typer.Exit(1)
    _report(memory)


def _check_folder(memory: Path, *, lost: bool = False) -> None:
    """Refuse what is missing, and a corpus, before anything slow. lost: see `check_source`.

    Raises:
        UserError: it is one of them.
    """
    check_source(str(memory), lost=lost)
    check_no_corpus(memory)


def _check_new(output: Path) -> None:
    """Refuse to overwrite documents. A memory without documents, left by a killed command, may be replaced."""
    from ..store.manifest import NAME, read_manifest

    if (output / NAME).exists() and read_manifest(output).documents:
        raise UserError(f"{output} already exists: name a new memory.")


def _report(memory: str | Path) -> None:
    from ..store import open_memory
    from .loading import note_damage

    opened = open_memory(memory, verify=False)
    note_damage(opened, memory)
    note(
        f"{memory}: {len(opened.contents)} document{'s' * (len(opened.contents) != 1)}, {opened.tokens:,} tokens, {opened.nbytes / 1e6:.1f} MB"
    )
