"""`sharedllm read`: text files into a memory on disk."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ..memory_file import open_memory, save_memory
from .common import (
    BatchTokensOption,
    JsonOption,
    KeepAllOption,
    ModelOption,
    load,
    print_json,
    read_files,
    stderr,
    tokenizer_fingerprint,
)


def command(
    files: Annotated[list[str], typer.Argument(help="Text files, globs, or - for standard input.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Memory to write, usually X.memory.")],
    model: ModelOption = "tiny",
    append: Annotated[bool, typer.Option("--append", help="Read behind what the memory holds already.")] = False,
    keep_all: KeepAllOption = False,
    batch_tokens: BatchTokensOption = 32_768,
    json: JsonOption = False,
) -> None:
    """Read text files into a memory that can be asked many times."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder: name a file to save the memory to.")
    if not output.parent.is_dir():
        raise ValueError(f"the folder {output.parent} does not exist: create it, or save the memory elsewhere.")
    loaded, tokenizer = load(model)
    start = time.perf_counter()
    vocabulary = tokenizer_fingerprint(tokenizer)
    before = open_memory(output, fingerprint=loaded.fingerprint(), tokenizer=vocabulary) if append else None
    if before is not None and keep_all and not before.complete:
        raise ValueError(f"{output} does not hold every token: --keep-all can't be begun with --append.")
    memory = read_files(loaded, tokenizer, files, batch_tokens, before, keep_all)
    save_memory(memory, output, tokenizer=vocabulary)
    tokens = int(memory.lengths.sum()) - (int(before.lengths.sum()) if before is not None else 0)
    seconds = time.perf_counter() - start
    if json:
        print_json(
            memory=str(output),
            tokens_read=tokens,
            tokens=int(memory.lengths.sum()),
            kept=int(memory.kept.sum()),
            bytes=memory.nbytes,
            seconds=round(seconds, 3),
        )
    else:
        stderr.print(
            f"read {tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} tokens/s); {output} holds "
            f"{int(memory.kept.sum()):,} of {int(memory.lengths.sum()):,} tokens in {memory.nbytes / 1e6:.1f} MB",
            highlight=False,
        )
