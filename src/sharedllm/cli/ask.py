"""`sharedllm ask`: a question over a memory or a text file."""

from typing import Annotated

import torch
import typer

from ..answering.ask import answer_over, ask, prompt_of
from ..context.policies.base import get_policy
from ..scoring import DEFAULT_SCORE
from ..scoring.base import get_score
from ..utils.errors import UserError
from .common import (
    BatchTokensOption,
    JsonOption,
    ModelOption,
    ScoreOption,
    SelectionOption,
    everything_of,
    load,
    memory_of,
    print_json,
    show_sources,
    tokens_behind,
)


def command(
    source: Annotated[str, typer.Argument(help="A memory, a text file, or - for standard input.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = "tiny",
    selection: SelectionOption = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the memory to read, chosen for the question (--keep-all memories)."),
    ] = None,
    score: ScoreOption = DEFAULT_SCORE,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a question over a memory or a text file; the answer ends with its line."""
    if budget is not None and selection is not None:
        raise UserError("--budget and --selection are both given: a budget selects by --score.")
    loaded, tokenizer = load(model)
    get_score(score, loaded.config)
    policy = get_policy(selection or loaded.config.selection)
    prompt = prompt_of(loaded, tokenizer, question, max_new_tokens)
    sources = []
    if budget is not None:
        everything = everything_of(loaded, tokenizer, source, batch_tokens)
        limits = {"budget": budget, "score": score, "max_new_tokens": max_new_tokens}
        answered = ask(loaded, tokenizer, everything, question, **limits)
        answer, memory, sources = answered.text, answered.memory, answered.sources
    else:
        memory = memory_of(loaded, tokenizer, source, batch_tokens)
        if policy.needs_query:
            if len(memory.sources[0]) > 1:
                raise UserError(
                    f"--selection {policy.name} reads one text again, {source} holds several: use --budget."
                )
            # Which parts stay fine depends on the question: read the tokens again, but for chunks that are lost.
            ids = memory.token_ids.long()
            held = torch.isin(torch.arange(ids.shape[1]) // memory.chunk_size, memory.chunk)[None]
            with torch.no_grad():
                memory = loaded.read(ids, held, query_ids=prompt, selection=policy, batch_tokens=batch_tokens)
        answer, _ = answer_over(loaded, tokenizer, memory, prompt, max_new_tokens)
    chosen = {"selection": policy.name} if budget is None else {"budget": budget, "score": score, "sources": sources}
    if json:
        print_json(question=question, answer=answer, context_tokens=tokens_behind(memory), **chosen)
    else:
        print(answer)
        show_sources(sources)
