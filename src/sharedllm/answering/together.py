"""Several questions to one text, answered together: each step continues all answers by one token, as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..decoding import ROWS, Batch
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory
from ..model.cross_attention import PreparedMemory
from ..prompts import PromptForm
from ..rows import Begun, Row
from ..scoring.defaults import default_budget
from .ask import Chosen, after_prefix, choose
from .asked import answer_length, check_model, prompt_of, searched_for
from .stream import AnswerStream, StopOnText, cut_off, ending


@dataclass(frozen=True)
class Reply:
    """text, cut: the answer, as `ask` gives it. sources: see `citations.describe`; none if the whole memory was read."""

    text: str
    cut: bool
    sources: list[dict[str, Any]]


@torch.no_grad()
def ask_together(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    memory: Memory,
    questions: Sequence[str],
    *,
    budget: int | None = None,
    score: str | None = None,
    max_new_tokens: int | None = None,
    instruction: str | None = None,
    rows: int = ROWS,
) -> list[Reply]:
    """Answer questions over a text, in their order, each as if it were asked alone.

    Args:
        memory: of one text. If it does not hold every token, and neither `budget` nor `score` is given, all that it holds
            is read for each question; else each question selects.
        budget, score, max_new_tokens, instruction: see `ask`. rows: most questions at once.

    Raises:
        UserError: as `ask`, before the first answer is begun where a question is wrong.
    """
    check_model(model, tokenizer)
    prompts = [prompt_of(model, tokenizer, question, max_new_tokens, instruction) for question in questions]
    form, most = PromptForm.of(tokenizer), answer_length(model.config, max_new_tokens)
    ends = ending(model, form)
    options = {"do_sample": False, **ends}
    whole = None if memory.complete or budget is not None or score is not None else _whole(model, memory)
    limits: dict[str, Any] = {"budget": default_budget(model.config) if budget is None else budget, "score": score}

    def begin(question: str, prompt: Tensor) -> tuple[Row, StopOnText, Chosen | None]:
        read: ContextMemory | PreparedMemory | None = whole
        chosen = None
        if whole is None:
            chosen = choose(model, tokenizer, memory, *searched_for(model, tokenizer, question), **limits)
            read = chosen.memory
        stream = AnswerStream(tokenizer, one_line=form.one_line, strip=True)
        begun = Begun(model, after_prefix(model, prompt), read, most, **options)
        stop = StopOnText(stream)
        return Row(begun, stop), stop, chosen

    batch, begun = Batch(rows), []
    while len(begun) < len(prompts) or batch.rows:
        while len(begun) < len(prompts) and batch.room:
            begun.append(begin(questions[len(begun)], prompts[len(begun)]))
            batch.add(begun[-1][0])
        batch.step()
    for row, _, _ in begun:
        if row.error is not None:
            raise row.error
    texts = [stop.stream.finish().rstrip() for _, stop, _ in begun]
    cuts = [cut_off(stop, most, ends.get("eos_token_id", [])) for _, stop, _ in begun]
    return [
        Reply(text, cut, [] if chosen is None else chosen.supporting(question, text).sources)
        for question, text, cut, (_, _, chosen) in zip(questions, texts, cuts, begun, strict=True)
    ]


def _whole(model: SharedLLMForCausalLM, memory: Memory) -> PreparedMemory | None:
    """All that a memory holds, with its positions, shared by all questions."""
    model.model.check_fingerprint(memory.fingerprint)
    return model.model.prepare_memory(memory.load())
