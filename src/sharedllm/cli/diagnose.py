"""`sharedllm diagnose`: which layers of a base need the context, and how deep it must be read."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.text_files import check_file, read_text
from ..utils.version import __version__
from .common import JsonOption, check_model, note, output_option, print_json, progress_bar


def command(
    model: Annotated[
        str, typer.Argument(callback=check_model, help="Folder, hub id, or name of a bundled base.")
    ] = "base",
    text: Annotated[Path | None, typer.Option("--text", help="Text file; default: Python's standard library.")] = None,
    context_tokens: Annotated[int | None, typer.Option(min=64, help="Default: half of the base's window.")] = None,
    running_tokens: Annotated[int | None, typer.Option(min=64, help="Default: half of the base's window.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Samples of each kind.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    output: Annotated[Path | None, output_option("Folder for diagnosis.json and .png.")] = None,
    json: JsonOption = False,
) -> None:
    """Let only chosen layers of a base see the context, and find the layers that recall needs. Nothing is trained."""
    if text is not None:
        check_file(str(text))
    from ..causal_lm import SharedLLMForCausalLM
    from ..demo.sources import library_text
    from ..diagnosis.measure import diagnose, number_of_sets
    from ..diagnosis.plot import draw
    from ..diagnosis.tables import show
    from ..utils.hardware import environment
    from ..utils.text import tokenize
    from .loading import load_any

    base, tokenizer = load_any(model)
    if isinstance(base, SharedLLMForCausalLM):
        raise UserError(f"{model} is a SharedLLM: diagnose the base that it was extended from.")
    longest = base.config.max_position_embeddings
    context = longest // 2 if context_tokens is None else context_tokens
    running = longest // 2 if running_tokens is None else running_tokens
    if context + running > longest:
        raise UserError(
            f"{context:,} + {running:,} tokens are more than the base's window of {longest:,}: ask for fewer."
        )
    needed = 20 * (context + running)
    ids = tokenize(tokenizer, read_text(str(text))) if text is not None else library_text(tokenizer, needed)
    with progress_bar("trying layers", number_of_sets(base.config.num_hidden_layers)) as advance:
        found = diagnose(base, tokenizer, ids[0].numpy(), context, running, rows, seed, advance)
    result = {
        "model": model,
        "context_tokens": context,
        "running_tokens": running,
        "rows": rows,
        "seed": seed,
        **found.as_dict(),
        "environment": {"sharedllm": __version__} | environment(),
    }
    if output is not None:
        write_text(output / "diagnosis.json", jsonlib.dumps(result, indent=1))
        draw(
            found,
            f"{Path(model).name}: {context} tokens of context, {running} of running text",
            output / "diagnosis.png",
        )
        note(f"wrote {output / 'diagnosis.json'} and diagnosis.png")
    if json:
        print_json(**result)
    else:
        show(found)
