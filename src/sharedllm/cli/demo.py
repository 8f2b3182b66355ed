"""`sharedllm demo`: the main use on a long real text, measured and drawn."""

import json as json_module
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..utils.errors import UserError
from ..utils.extras import MissingExtra
from ..utils.files import write_text
from ..utils.text_files import check_file, read_text
from ..utils.version import __version__
from .common import JsonOption, ModelOption, check_model, note, output_option, print_json, progress_bar

BATCH_TOKENS = 16_384
# Places whose loss is measured.
PLACES = 12
DEPTHS = [0.0, 0.25, 0.5, 0.75, 0.99]


def command(
    file: Annotated[str | None, typer.Argument(help="Text to read instead of Python's standard library.")] = None,
    output: Annotated[Path, output_option("Folder for demo.json and demo.png.")] = Path("demo"),
    model: ModelOption = "tiny",
    base: Annotated[
        str | None,
        typer.Option(callback=check_model, help="The base that an extended model was made from; default: of tiny."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1024, help="Longest context.")] = 131_072,
    places: Annotated[
        int | None,
        typer.Option(min=1, help="Number of places whose loss is measured, unless of a chat model. Default: 12."),
    ] = None,
    needles: Annotated[int, typer.Option(min=1, help="Needles per cell.")] = 4,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of the memory that each needle's question selects. Default: 2048; the model's own, "
            "if it reads deeper.",
        ),
    ] = None,
    full_limit: Annotated[
        float, typer.Option(min=0, help="Longest time of one pass of full attention, in seconds.")
    ] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the needles.")] = 0,
    json: JsonOption = False,
) -> None:
    """Read 128K tokens with a short window and show what this brings: loss, needles, time and memory.

    With --model, a chat model from a folder, the hub or a .gguf file, it is extended on the spot, and asked for hidden
    facts beside the same pieces as text.
    """
    if file is not None:
        check_file(file)
    import torch

    from ..causal_lm import SharedLLMForCausalLM
    from ..demo.plot import draw, draw_asked
    from .demo_asked import asked, show_asked
    from .loading import check_named_base, load_any

    if base is not None:
        check_named_base(base)
    loaded, tokenizer = load_any(model)
    extended = isinstance(loaded, SharedLLMForCausalLM)
    asks = not extended or loaded.config.injection == "deep"
    if extended and asks and base is None:
        raise UserError(f"--base is missing: name the base that {model} was extended from.")
    if not extended and base is not None:
        raise UserError(f"--base {base} is of an extended model, but {model} is a base itself: leave out --base.")
    if asks and places is not None:
        raise UserError(f"--places {places} is for losses, but {model} is asked for facts: leave out --places.")
    with torch.no_grad():
        if asks:
            plain = load_any(base)[0] if base is not None else None
            result = asked(
                file, loaded, tokenizer, (model, base), plain, tokens, DEPTHS, needles, budget, full_limit, seed
            )
        else:
            options = (tokens, places or PLACES, needles, budget or 2048, full_limit, seed)
            result = _measured(file, loaded, tokenizer, model, base or "base", *options)
    result = json_module.loads(json_module.dumps(result))  # print and draw exactly what is saved
    write_text(output / "demo.json", json_module.dumps(result, indent=1))
    drawn = f", drawn in {output / 'demo.png'}"
    try:
        (draw_asked if asks else draw)(result, output / "demo.png")
    except MissingExtra as error:
        note(f"no figure is drawn: {error}")
        drawn = ""
    if json:
        print_json(**result)
    else:
        (show_asked if asks else show)(result, f"{output / 'demo.json'}{drawn}")


def _measured(
    file: str | None,
    loaded: Any,
    tokenizer: Any,
    model: str,
    base: str,
    tokens: int,
    places: int,
    needles: int,
    budget: int,
    full_limit: float,
    seed: int,
) -> dict:
    """Measure according to the options of `command`."""
    from ..demo.cost import costs
    from ..demo.measure import anchors, context_lengths, losses_by_length, needle_recall
    from ..demo.sources import library_text
    from ..utils.hardware import environment
    from ..utils.text import tokenize
    from .loading import load_any

    begin = time.perf_counter()
    base_model, _ = load_any(base)
    window, chunk = loaded.config.window, loaded.config.chunk_size
    margin = window + 2 * places * chunk
    ids = tokenize(tokenizer, read_text(file)) if file else library_text(tokenizer, tokens + margin)
    ids = ids[:, : tokens + margin].to(loaded.device)
    lengths = context_lengths(ids.shape[1] - window - chunk, window, tokens)
    if not lengths:
        raise UserError(f"{file} has {ids.shape[1]:,} tokens: the demo needs at least {2 * window + chunk:,}.")
    if lengths[-1] < tokens:
        note(f"the text has {ids.shape[1]:,} tokens: contexts go up to {lengths[-1]:,}")
    starts = anchors(ids.shape[1], lengths[-1], window, chunk, places)
    another = library_text(tokenizer, starts[-1], other=True)[:, : starts[-1]].to(loaded.device)
    if another.shape[1] < lengths[-1]:
        raise UserError(f"the standard library has too little text: lower --tokens to {another.shape[1]:,} or less.")

    with progress_bar("timing", len(lengths)) as advance:
        ours, full = costs(loaded, base_model, ids, lengths, BATCH_TOKENS, full_limit, advance)
    with progress_bar("reading", ids.shape[1] + another.shape[1]) as advance:
        own = loaded.read(ids[:, : starts[-1]], batch_tokens=BATCH_TOKENS, progress=advance)
        other = loaded.read(another, batch_tokens=BATCH_TOKENS, progress=advance)
    with progress_bar("scoring", len(starts) * len(lengths)) as advance:
        losses = losses_by_length(loaded, base_model, ids, own, other, lengths, starts, advance)
    needle_lengths = lengths[::2] if len(lengths) > 4 else lengths
    # If the model can select for a question, the whole text is kept.
    selects = loaded.config.injection == "joint" and loaded.config.encoding == "chunk"
    hay = loaded.read(ids[:, : starts[-1]], keep_all=True, batch_tokens=BATCH_TOKENS) if selects else own
    with progress_bar("asking for needles", len(needle_lengths) * len(DEPTHS)) as advance:
        recall = needle_recall(
            loaded, tokenizer, ids, hay, needle_lengths, DEPTHS, needles, seed, budget if selects else None, advance
        )

    return {
        "text": {"name": file or "Python's standard library", "tokens": ids.shape[1]},
        "model": {"name": model, "window": window, "parameters": sum(p.numel() for p in loaded.parameters())},
        "memory": {"tokens": int(own.lengths[0]), "kept": int(own.kept[0]), "bytes": own.nbytes},
        "losses": asdict(losses),
        "needles": recall,
        "needles_a_cell": needles,
        "needle_budget": budget if selects else None,
        "costs": {
            "sharedllm": {n: asdict(c) for n, c in ours.items()},
            "full_attention": {n: asdict(c) for n, c in full.items()},
        },
        "seed": seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "environment": {"sharedllm": __version__} | environment(),
    }


def show(result: dict, where: str) -> None:
    """Print the result as tables on stdout. where: it is saved."""
    console = Console(highlight=False)
    losses = result["losses"]
    ours, full = result["costs"]["sharedllm"], result["costs"]["full_attention"]
    console.print(
        f"\n[bold]{result['text']['name']}[/bold]: {result['memory']['tokens']:,} tokens read by a model with a window of "
        f"{result['model']['window']}; {result['memory']['kept']:,} kept in {result['memory']['bytes'] / 1e6:.1f} MB\n"
    )
    console.print(
        f"Loss of the same {losses['targets']:,} tokens, in nats: base with the window alone {losses['base']:.4f}, "
        f"extended model without context {losses['none']:.4f}. Below: with its own text as context, with another text; "
        "how often its own is better; time and memory of reading and scoring a window, against full attention of the base."
    )
    table = Table()
    for name in ("context", "own", "other", "own wins", "time", "memory", "full", "memory"):
        table.add_column(name, justify="right")
    for n, value in losses["own"].items():
        cells = [f"{value:.4f}", f"{losses['other'][n]:.4f}", f"{losses['wins'][n]:.0%}"]
        table.add_row(f"{int(n):,}", *cells, *_cost(ours.get(n)), *_cost(full.get(n)))
    console.print(table)
    chosen = f", each question selecting {result['needle_budget']:,} tokens" if result["needle_budget"] else ""
    console.print(f"\nNeedles found, by depth (0 % is the oldest text){chosen}")
    table = Table()
    table.add_column("context", justify="right")
    for depth in next(iter(result["needles"].values())):
        table.add_column(f"{100 * float(depth):.0f} %", justify="right")
    for n, row in result["needles"].items():
        table.add_row(f"{int(n):,}", *(f"{value:.0%}" for value in row.values()))
    console.print(table)
    longest = max(ours, key=int)
    speed = int(longest) / ours[longest]["seconds"]
    compared = max(full, key=int)
    ratio = full[compared]["seconds"] / ours[compared]["seconds"]
    console.print(
        f"{speed:,.0f} tokens/s at {int(longest):,} tokens; at {int(compared):,}, the longest that full attention was run "
        f"on, {ratio:.1f} times as fast as it"
    )
    console.print(f"{result['seconds']} s in all; figures in {where}")


def _cost(cost: dict | None) -> tuple[str, str]:
    if cost is None:
        return "–", "–"
    return f"{cost['seconds']:.2f} s", "–" if cost["peak_bytes"] is None else f"{cost['peak_bytes'] / 1e6:.0f} MB"
