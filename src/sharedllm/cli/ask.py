"""`sharedllm ask`: a question over a memory or a text file."""

from typing import Annotated

import torch
import typer

from ..chat import plain
from ..data.text import tokenize
from ..selection import get_policy
from ..selection.cite import cite, describe
from ..selection.scores import get_score
from .common import (
    BatchTokensOption,
    JsonOption,
    ModelOption,
    SelectionOption,
    everything_of,
    load,
    memory_of,
    print_json,
    show_sources,
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
    score: Annotated[str, typer.Option(help="What a --budget goes by: attention, bm25 or hybrid.")] = "attention",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    batch_tokens: BatchTokensOption = 32_768,
    json: JsonOption = False,
) -> None:
    """Ask a question over a memory or a text file; the answer ends with its line."""
    loaded, tokenizer = load(model)
    policy = get_policy(selection or loaded.config.selection)
    ids = tokenize(tokenizer, plain(question.strip()))
    room = loaded.config.window - max_new_tokens
    if not question.strip():
        raise ValueError("the question is empty: ask something.")
    if ids.shape[1] > room:
        raise ValueError(
            f"the question has {ids.shape[1]} tokens; {room} fit beside {max_new_tokens} new ones in the "
            f"window={loaded.config.window}: shorten it."
        )
    if budget is not None and selection is not None:
        raise ValueError("--budget and --selection are both given: a budget selects by --score.")
    get_score(score)
    sources = []
    if budget is not None:
        everything = everything_of(loaded, tokenizer, source, batch_tokens)
        scores = loaded.scores(everything, ids, score=score)
        memory = loaded.select(everything, ids, budget=budget, score=scores)
        sources = [describe(tokenizer, memory, citation) for citation in cite(memory, scores)]
    else:
        memory = memory_of(loaded, tokenizer, source, batch_tokens)
    if budget is None and policy.needs_query:
        if len(memory.sources[0]) > 1:
            raise ValueError(f"--selection {policy.name} reads one text again, {source} holds several: use --budget.")
        # Which parts stay fine depends on the question: read the tokens again that the memory keeps.
        with torch.no_grad():
            memory = loaded.read(memory.token_ids.long(), query_ids=ids, selection=policy, batch_tokens=batch_tokens)
    output = loaded.generate(ids, memory=memory, max_new_tokens=max_new_tokens, do_sample=False)
    answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip().split("\n")[0]
    chosen = {"selection": policy.name} if budget is None else {"budget": budget, "score": score, "sources": sources}
    if json:
        print_json(question=question, answer=answer, context_tokens=int(memory.lengths[0]), **chosen)
    else:
        print(answer)
        show_sources(sources)
