"""`sharedllm benchmark`: reading time by length, and what computing only what is needed saves."""

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..benchmark import benchmark_reading, format_table, total_tokens
from .common import JsonOption, ModelOption, load, print_json, progress_bar
from .extend import numbers


def command(
    model: ModelOption = "tiny",
    lengths: Annotated[str, typer.Option(help="Context lengths.")] = "8192,16384,32768,65536,131072,262144",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each kind at each length, alternating.")] = 3,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens read at once.")] = 16_384,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="JSON file to write.")] = None,
    json: JsonOption = False,
) -> None:
    """Time reading at several lengths: the exponent of the cost, and the share of time that the shortcut saves."""
    loaded, _ = load(model)
    sizes = numbers("lengths", lengths)
    with progress_bar("reading", total_tokens(sizes, repeats)) as advance:
        result = benchmark_reading(
            loaded, tuple(sizes), repeats=repeats, batch_tokens=batch_tokens, seed=seed, progress=advance
        )
    if output is not None:
        output.write_text(json_module.dumps(result, indent=1))
    if json:
        print_json(**result)
        return
    console = Console(highlight=False)
    console.print(format_table(result))
