"""`sharedllm bench serve`: a server by the number of its clients."""

from contextlib import suppress
from typing import Annotated

import typer

from ..utils.files import write_text
from .common import ModelOption, ResultsOption, check_source, note


def command(
    memories: Annotated[list[str], typer.Argument(help="Memories made with --keep-all, to ask about.")],
    output: ResultsOption,
    model: ModelOption = "tiny",
    clients: Annotated[str, typer.Option(help="Numbers of clients; × refers to the first.")] = "1,2,4,8",
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each, alternating.")] = 3,
    answers: Annotated[int, typer.Option(min=1, help="Answers of each client in a round.")] = 2,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="The server's --batch.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions.")] = 0,
    plots: Annotated[bool, typer.Option(help="Draw the figure.")] = True,
) -> None:
    """Measure a server's tokens per second and time to the first token by clients; makes a table and a figure."""
    from ..benchmark.serve import Plan, measure, serving
    from ..benchmark.serve_report import draw, markdown
    from ..utils.errors import UserError

    for memory in memories:
        check_source(memory)
    try:
        numbers = [int(part) for part in clients.split(",")]
    except ValueError:
        raise UserError(f"--clients {clients!r} must be whole numbers, separated by commas: 1,2,4,8.") from None
    plan = Plan(model, memories, numbers, rounds, answers, new_tokens, batch, seed, _ends(model))
    with serving(plan) as server:
        results = measure(plan, server, output, note)
    text = markdown(results)
    write_text(output / "report.md", text)
    files = [output / "serve.json", output / "report.md", *([draw(results, output)] if plots else [])]
    print(text)
    note("wrote " + ", ".join(map(str, files)))


def _ends(model: str) -> list[int]:
    """Tokens that end an answer (see `answering.stream.end_tokens`), found without loading the model."""
    from transformers import AutoConfig, GenerationConfig

    from ..prompts import PromptForm
    from ..utils.checkpoints import load_tokenizer
    from ..utils.model_names import checkpoint

    folder = checkpoint(model)
    ends = set(PromptForm.of(load_tokenizer(model)).ends)
    for kind in (AutoConfig, GenerationConfig):
        with suppress(OSError):  # a checkpoint may have no generation_config.json
            known = getattr(kind.from_pretrained(folder), "eos_token_id", None)
            ends |= {known} if isinstance(known, int) else set(known or [])
    return sorted(ends)
