"""Many questions, to one text or to several, answered as one batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..decoding import ROWS, Batch
from ..memory.segments import Source
from ..prompts import PromptForm
from ..rows import Begun, Row
from ..utils.hardware import now
from .ask import Answer, Asked, after_prefix, asked, written
from .stream import AnswerStream, StopOnText, ending


@torch.no_grad()
def ask_many(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[tuple[Source, str]],
    *,
    rows: int = ROWS,
    budget: int | None = None,
    score: str | None = None,
    max_new_tokens: int = 32,
    most_sources: int = 3,
    instruction: str | None = None,
) -> list[Answer]:
    """Answer many questions, each as `ask` answers it, in the order of the questions.

    What each question selects is read alone; the answers are written together.

    Args:
        questions: texts and questions to them; see `ask` for a text. rows: most answers written at once.
        Other arguments as for `ask`.

    Raises:
        UserError: as `ask`.
    """
    batch, answers, waiting, writing = Batch(rows), {}, list(enumerate(questions)), dict[Row, _Writing]()
    while waiting or writing:
        if waiting and batch.room:
            number, (everything, question) = waiting.pop(0)
            found = asked(
                model, tokenizer, everything, question, budget=budget, score=score, max_new_tokens=max_new_tokens,
                most_sources=most_sources, instruction=instruction,
            )  # fmt: skip
            row, one = _begun(model, tokenizer, number, found, max_new_tokens)
            writing[row] = one
            batch.add(row)
        ended = [*batch.step(), *(row for row in writing if row.ended)]
        for row in dict.fromkeys(ended):
            if row.error is not None:
                raise row.error
            one = writing.pop(row)
            answers[one.number] = one.answer(row)
    return [answers[number] for number in range(len(questions))]


@dataclass(frozen=True)
class _Writing:
    """An answer that is being written. number: of its question. length: tokens of running text before it."""

    number: int
    asked: Asked
    stop: StopOnText
    length: int
    begin: float
    ready: float

    def answer(self, row: Row) -> Answer:
        first = self.stop.first
        seconds = {"deepen": self.ready - self.begin, "prefill": first - self.ready, "decode": now() - first}
        return self.asked.answered(written(self.stop, row.ids[:, self.length :], seconds))


def _begun(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int, found: Asked, new_tokens: int
) -> tuple[Row, _Writing]:
    form, begin = PromptForm.of(tokenizer), now()
    prepared = model.model.prepare_memory(found.chosen.memory)
    ready, prompt = now(), after_prefix(model, found.prompt)
    begun = Begun(model, prompt, prepared, new_tokens, do_sample=False, **ending(model, form))
    stop = StopOnText(AnswerStream(tokenizer, one_line=form.one_line, strip=True))
    return Row(begun, stop), _Writing(number, found, stop, begun.read.ids.shape[1], begin, ready)
