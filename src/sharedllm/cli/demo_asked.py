"""`sharedllm demo --model` with a chat model: extended on the spot if it is not yet, then asked for hidden facts."""

import time
from dataclasses import asdict
from typing import cast

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..demo.asking import SYSTEMS, ask_facts, full_attention
from ..demo.sources import library_source
from ..scoring.defaults import default_budget
from ..utils.errors import UserError
from ..utils.hardware import environment
from ..utils.prose import library_prose
from ..utils.text_files import read_text
from ..utils.version import __version__
from .common import note, progress_bar
from .extending import CHARACTERS, DEEP, measured_depth

# Fewer tokens than this are no long text.
LEAST = 1024


def asked(
    file: str | None,
    loaded: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    names: tuple[str, str | None],
    base: PreTrainedModel | None,
    tokens: int,
    depths: list[float],
    needles: int,
    budget: int | None,
    limit: float,
    seed: int,
) -> dict:
    """What `demo` measures of a chat model.

    Args:
        loaded: a base, which is extended first, or a SharedLLM with injection "deep". names: of the model, and of its
        base. base: of a SharedLLM; answers from text.

    Raises:
        UserError: the text is too short.
    """
    begin = time.perf_counter()
    text = read_text(file) if file else library_source(6 * tokens)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    if len(ids) < LEAST:
        raise UserError(f"{file} has {len(ids):,} tokens: the demo needs at least {LEAST:,}.")
    text = cast(str, tokenizer.decode(ids))
    if isinstance(loaded, SharedLLMForCausalLM):
        assert base is not None
        model, measured = loaded, {}
    else:
        base = loaded
        model, measured = measured_depth(loaded, tokenizer, library_prose(CHARACTERS), DEEP, None, "few", needed=False)
        model.eval()
    budget = default_budget(model.config) if budget is None else budget
    with progress_bar("reading and asking", len(SYSTEMS) * len(depths) * needles) as advance:
        answers = ask_facts(model, base, tokenizer, text, depths, needles, budget, seed, advance)
    note(f"the base alone reads the whole text, for at most {limit:g} s …", style="dim")
    return {
        "text": {"name": file or "Python's standard library", "tokens": answers["tokens"]},
        "model": {"name": names[0], "base": names[1], "lower_layers": model.config.lower_layers,
                  "layers": base.config.num_hidden_layers, "measured": measured,
                  "parameters": sum(p.numel() for p in model.parameters())},
        "memory": {"tokens": answers["tokens"], "bytes": answers["bytes"]},
        "budget": budget, "needles_a_cell": needles, "questions": answers["questions"],
        "asked": {name: asdict(found) for name, found in answers["systems"].items()},
        "full_attention": full_attention(base, tokenizer, text, limit),
        "seed": seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "environment": {"sharedllm": __version__} | environment(),
    }  # fmt: skip


def show_asked(result: dict, where: str) -> None:
    """Print the result as a table on stdout. where: it is saved."""
    console = Console(highlight=False)
    model, answers, full = result["model"], result["asked"], result["full_attention"]
    ours = answers["sharedllm"]
    console.print(
        f"\n[bold]{result['text']['name']}[/bold]: {result['text']['tokens']:,} tokens, read once through "
        f"{model['lower_layers']} of {model['layers']} layers of {model['name']}, in {ours['prepare']:.1f} s "
        f"({result['text']['tokens'] / ours['prepare']:,.0f} tokens/s); a memory of {result['memory']['bytes'] / 1e6:,.0f} MB\n"
    )
    table = Table(title=f"{result['questions']} facts asked for, found by depth (0 % is the beginning)")
    table.add_column("answered from")
    depths = list(ours["found"])
    for name in (*(f"{100 * float(depth):.0f} %" for depth in depths), "tokens shown", "a question"):
        table.add_column(name, justify="right")
    for system, name in SYSTEMS.items():
        row = answers[system]
        shares = [f"{row['found'][depth]:.0%}" for depth in depths]
        table.add_row(name, *shares, f"{row['shown']:,.0f}", f"{row['seconds']:.2f} s")
    console.print(table)
    alone = f"in {full['seconds']:.1f} s" if full["seconds"] is not None else f"not: {full['why']}"
    console.print(f"The base alone, with full attention, reads the text {alone}.")
    console.print(f"{result['seconds']} s in all; figures in {where}")
