"""`sharedllm ask`: a question over a memory or a text file."""

import time
from typing import Annotated

import typer

from ..scoring import BUDGET
from ..utils.errors import UserError
from .answers import choosing_line, reading_line
from .common import (
    BatchTokensOption,
    JsonOption,
    ModelOption,
    NewTokensOption,
    ScoreOption,
    SelectionOption,
    check_source,
    print_json,
    status_line,
)


def command(
    source: Annotated[str, typer.Argument(help="A memory, a corpus or its URI, a text file, or - for standard input.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = "tiny",
    selection: SelectionOption = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Tokens to read, selected for the question. Default: all, or if every token was kept {BUDGET}.",
        ),
    ] = None,
    score: ScoreOption = None,
    max_new_tokens: NewTokensOption = None,
    instruction: Annotated[
        str | None, typer.Option(help="How to answer. Default: with as few words as possible, for chat models.")
    ] = None,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a question over a memory or a text file; the answer is one line."""
    if budget is not None and selection is not None:
        raise UserError("--budget and --selection are both given: a budget selects by --score.")
    check_source(source)
    from ..answering.ask import answer_over, ask, checked_score
    from ..answering.asked import checked_question, prompt_of
    from ..context.policies.base import get_policy
    from ..memory.interface import lacking
    from ..scoring.defaults import default_budget
    from .asking import note_untrained, selected, show
    from .loading import config_of, load, open_source, tokens_behind

    checked_question(question)
    config = config_of(model)
    score = checked_score(config, score)
    policy = get_policy(selection or config.selection)
    loaded, tokenizer = load(model, source)
    started = time.perf_counter()  # as for `read`: without loading the model
    prompt = prompt_of(loaded, tokenizer, question, max_new_tokens, instruction)
    # By default a question selects from a text that was or can be kept whole. Reading deeper is only possible for a
    # part of a text.
    chooses = selection is None and not policy.needs_query and config.encoding == "chunk"
    opened = open_source(loaded, tokenizer, source, batch_tokens, keep_all=budget is not None or chooses)
    if budget is None and chooses and (opened.complete or config.injection == "deep"):
        budget = default_budget(config)
    if budget is not None:
        limits = {"budget": budget, "score": score, "max_new_tokens": max_new_tokens, "instruction": instruction}
        with status_line("choosing what to read, and answering …") as tell:
            told = {"progress": choosing_line(tell), "reading": reading_line(tell)}
            answer = ask(loaded, tokenizer, opened, question, **told, **limits)
        memory = answer.memory
        by = {"budget": budget, "score": score, "sources": answer.sources, "found": answer.found}
    else:
        memory = selected(loaded, opened, source, policy, prompt, batch_tokens)
        with status_line("answering …") as tell:
            answer = answer_over(loaded, tokenizer, memory, prompt, max_new_tokens, reading_line(tell))
        by = {"selection": policy.name}
    note_untrained(loaded, model)
    if json:
        read = {"context_tokens": tokens_behind(memory), "selected_tokens": int(memory.kept[0])}
        seconds = round(time.perf_counter() - started, 3)
        print_json(
            question=question, answer=answer.text, cut=answer.cut, **read, seconds=seconds, **by, **lacking(opened)
        )
    else:
        show(answer, config)
