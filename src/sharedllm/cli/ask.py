"""`sharedllm ask`: a question over a memory or a text file."""

from typing import Annotated

import torch
import typer

from ..data.text import tokenize
from ..selection import get_policy
from .common import BatchTokensOption, JsonOption, ModelOption, SelectionOption, load, memory_of, print_json


def command(
    source: Annotated[str, typer.Argument(help="A memory, a text file, or - for standard input.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = "tiny",
    selection: SelectionOption = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 32,
    batch_tokens: BatchTokensOption = 32_768,
    json: JsonOption = False,
) -> None:
    """Ask a question over a memory or a text file; the answer ends with its line."""
    loaded, tokenizer = load(model)
    policy = get_policy(selection or loaded.config.selection)
    ids = tokenize(tokenizer, f"\nQuestion: {question.strip()}\nAnswer:")
    room = loaded.config.window - max_new_tokens
    if not question.strip():
        raise ValueError("the question is empty: ask something.")
    if ids.shape[1] > room:
        raise ValueError(
            f"the question has {ids.shape[1]} tokens; {room} fit beside {max_new_tokens} new ones in the "
            f"window={loaded.config.window}: shorten it."
        )
    memory = memory_of(loaded, tokenizer, source, batch_tokens)
    if policy.needs_query:
        # Which parts stay fine depends on the question: read the tokens again that the memory keeps.
        with torch.no_grad():
            memory = loaded.read(memory.token_ids.long(), query_ids=ids, selection=policy, batch_tokens=batch_tokens)
    output = loaded.generate(ids, memory=memory, max_new_tokens=max_new_tokens, do_sample=False)
    answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip().split("\n")[0]
    if json:
        print_json(question=question, answer=answer, context_tokens=int(memory.lengths[0]), selection=policy.name)
    else:
        print(answer)
