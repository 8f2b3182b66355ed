"""`sharedllm tokenize`: tokenise documents into a folder for training."""

from pathlib import Path
from typing import Annotated

import typer

from .common import JsonOption, check_model, output_option, print_json, progress_bar


def command(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs, or hub:owner/name[:config][@split].")],
    tokenizer: Annotated[str, typer.Option(callback=check_model, help="Folder, hub id, or name of a bundled model.")],
    output: Annotated[Path, output_option("Folder to write.")],
    validation: Annotated[float, typer.Option(help="Share of documents reserved for validation, below 1.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides which documents are reserved for validation.")] = 0,
    text_field: Annotated[str, typer.Option(help="Field of a record that holds its text.")] = "text",
    json: JsonOption = False,
) -> None:
    """Tokenise documents once, for any number of training runs. A folder that already holds the same tokens is kept."""
    from ..data.shard_writer import build_shards
    from ..utils.checkpoints import load_tokenizer
    from .loading import quiet

    quiet()
    loaded = load_tokenizer(tokenizer)
    settings = {"validation": validation, "seed": seed, "text_field": text_field}
    with progress_bar("tokenising", None) as advance:  # the total number of tokens is not known
        summary = build_shards(sources, loaded, output, progress=advance, **settings)
    if json:
        print_json(folder=str(output), reused=summary.reused, splits=summary.splits)
        return
    print(f"{output} {'holds these tokens already' if summary.reused else 'is written'}")
    for split, count in summary.splits.items():
        left_out = f", {count['duplicates']:,} duplicates left out" if count["duplicates"] else ""
        print(f"{split}: {count['documents']:,} documents, {count['tokens']:,} tokens{left_out}")
