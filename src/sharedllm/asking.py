"""A question to a text that was kept whole: what of it is read within a budget, the answer, and where that stands."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .data.text import tokenize
from .memory import ContextMemory
from .modeling import SharedLLMForCausalLM
from .selection.cite import Citation, cite, describe
from .selection.parts import Source, parts_of, roots


@dataclass(frozen=True)
class Answer:
    """An answer, and what it was made of.

    question, budget, score  as asked
    text          the first line of what the model wrote
    question_ids  (1, Q) the prompt
    answer_ids    (1, A) the tokens up to the end of that line, A ≥ 1
    memory        what of the text was read to answer
    scores        (1, T) how much the token at each slot of the text matters to the question
    chunks        slots at which the chunks of the text begin and end, (N,) each
    citations     parts that were kept whole, best first
    sources       the same as they are shown (see `selection.cite.describe`)
    """

    question: str
    budget: int
    score: str
    text: str
    question_ids: Tensor
    answer_ids: Tensor
    memory: ContextMemory
    scores: Tensor
    chunks: tuple[Tensor, Tensor]
    citations: list[Citation]
    sources: list[dict[str, Any]]


def plain(question: str) -> str:
    """How a model without a chat template is asked; the answer ends with its line."""
    return f"\nQuestion: {question}\nAnswer:"


def prompt_of(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str, max_new_tokens: int
) -> Tensor:
    """(1, Q) token ids of a question as the model was taught to answer it.

    Raises:
        ValueError: the question is empty, or does not fit into the window beside the answer.
    """
    if not question.strip():
        raise ValueError("the question is empty: ask something.")
    ids = tokenize(tokenizer, plain(question.strip())).to(model.device)
    room = model.config.window - max_new_tokens
    if ids.shape[1] > room:
        raise ValueError(
            f"the question has {ids.shape[1]} tokens; {room} fit beside {max_new_tokens} new ones in the "
            f"window={model.config.window}: shorten it."
        )
    return ids


def answer_over(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    memory: ContextMemory,
    prompt: Tensor,
    max_new_tokens: int,
) -> tuple[str, Tensor]:
    """The likeliest answer to a prompt (1, Q) over a memory: its first line, and the ids (1, A) of that."""
    output = model.generate(prompt, memory=memory, max_new_tokens=max_new_tokens, do_sample=False)
    ids = output[0, prompt.shape[1] :]

    def written(tokens: int) -> str:
        return tokenizer.decode(ids[:tokens], skip_special_tokens=True).strip()

    text = written(len(ids)).split("\n")[0].strip()
    # The fewest tokens that say all of it: attention is paid for these, not for what follows the line.
    needed = next((n for n in range(1, len(ids)) if text and written(n).startswith(text)), len(ids))
    return text, ids[None, :needed]


def ask(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    everything: Source,
    question: str,
    *,
    budget: int,
    score: str = "attention",
    max_new_tokens: int = 32,
    most_sources: int = 3,
) -> Answer:
    """Answer a question over a text of which every token was kept.

    Args:
        everything: one text of `read(…, keep_all=True)`, a `MemoryStore`, or several of them that stand one behind the
            other; they stay as they are, so that they can be asked again.
        budget: most tokens of it to read for this question. score: what that goes by (see `selection.scores`).

    Raises:
        ValueError: an empty or too long question, a budget below 1, or a memory that does not hold every token.
    """
    prompt = prompt_of(model, tokenizer, question, max_new_tokens)
    scores = model.scores(everything, prompt, score=score)
    chosen = model.select(everything, prompt, budget=budget, score=scores)
    text, ids = answer_over(model, tokenizer, chosen, prompt, max_new_tokens)
    chunks = roots(parts_of(everything), 0)
    citations = cite(chosen, scores, most_sources)
    sources = [describe(tokenizer, chosen, citation) for citation in citations]
    return Answer(question.strip(), budget, score, text, prompt, ids, chosen, scores, chunks, citations, sources)
