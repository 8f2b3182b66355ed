"""`sharedllm official`: LongBench, InfiniteBench and RULER-form tasks with their official prompts and metrics."""

from typing import Annotated

import typer

from ..scoring import DEFAULT_SCORE
from ..utils.errors import UserError
from .common import (
    SCORE_HELP,
    BatchTokensOption,
    ModelOption,
    ResultsOption,
    check_model,
    note,
    print_json,
    progress_bar,
    tokens_of_length,
)


def command(
    tasks: Annotated[list[str], typer.Argument(help="longbench, infinitebench, ruler, or names of their tasks.")],
    output: ResultsOption,
    data: Annotated[str | None, typer.Option("--data", help="Folder with NAME.jsonl files, or hub:owner/name.")] = None,
    model: ModelOption = "tiny",
    base: Annotated[
        str | None,
        typer.Option(
            "--base", callback=check_model, help="The base, asked with the end of each prompt, as the lower bound."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="First records of each dataset; questions per length.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="Tokens of ruler tasks, prompt plus answer; 4W is four windows.")] = "4W",
    haystack: Annotated[str | None, typer.Option(help="Text file in which to hide ruler's needles.")] = None,
    truncate_middle: Annotated[
        int | None, typer.Option(min=2, help="Cut the middle out of longer prompts, so that this many tokens remain.")
    ] = None,
    budget: Annotated[int | None, typer.Option(min=1, help="Most tokens of the memory that an answer sees.")] = None,
    score: Annotated[str, typer.Option(help=SCORE_HELP)] = DEFAULT_SCORE,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the ruler tasks.")] = 0,
    batch_tokens: BatchTokensOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Run official long-text benchmarks; prompts are read whole unless --truncate-middle says otherwise."""
    from rich.console import Console

    from ..evaluation.official import (
        GROUPS,
        read_task,
        ruler_task,
        run_official,
        task_names,
    )
    from ..evaluation.official.run import results_table
    from ..scoring.base import get_score
    from ..systems.answering import AnsweringSystem
    from ..systems.sharedllm.answering import AnsweringShared
    from ..systems.window import AnsweringWindow
    from ..utils.text_files import read_text
    from .loading import check_named_base, config_of, load, load_any

    names = task_names(tasks)
    generated = [name for name in names if name in GROUPS["ruler"]]
    if len(generated) < len(names) and data is None:
        raise UserError(f"{next(n for n in names if n not in generated)} needs its records: give --data FOLDER.")
    get_score(score, config_of(model))
    if base is not None:
        check_named_base(base)
    shared, tokenizer = load(model)
    window = shared.config.window
    wanted = [tokens_of_length(part, window) for part in lengths.split(",")]
    hay = None if haystack is None else read_text(haystack)
    chosen = [
        task
        for name in names
        for task in (
            [ruler_task(name, tokenizer, length, limit or 100, seed, hay) for length in wanted]
            if name in generated
            else [read_task(name, str(data), limit)]
        )
    ]
    systems: list[AnsweringSystem] = [AnsweringShared(shared, tokenizer, budget, score, batch_tokens)]
    if base is not None:
        systems.append(AnsweringWindow(load_any(base)[0], tokenizer, window))
    results = [
        run_official(system, chosen, output, tokenizer, window, cut=truncate_middle, bar=progress_bar)
        for system in systems
    ]
    if json:
        print_json(results=[row for result in results for row in result.values()])
    else:
        Console().print(results_table(results))
    note(f"wrote {output}")
