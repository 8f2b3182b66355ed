"""Questions about facts hidden in a document: one needle (T5), many keys, values and queries (T6), variables (T7).

An answer is right if every one of its tokens is the likeliest, as in greedy decoding. Keys, and one phrasing of each
kind of question, are from the split `test`, never trained on.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...data.questions import QUESTIONS
from ...data.questions.base import STOP, QuestionTask, Quiz, hide, render, sentence_borders
from ...systems.evaluated import Scores
from ..corpus import Documents
from .base import DoesNotFit, Setting, Text


@dataclass(frozen=True)
class Asking:
    """`length` tokens of a document with facts in it, then a question. A single fact is put at one of ten depths, which take
    turns in a drawn order, so that no document has always the same."""

    questions: QuestionTask
    accuracy: bool = True

    @property
    def name(self) -> str:
        return self.questions.name

    def texts(self, documents: Documents, length: int, setting: Setting) -> Iterator[Text]:
        tail = setting.window // 4
        chosen, _ = documents.long_enough(setting.longest + tail)
        drawn = random.Random(f"{setting.seed} {documents.domain} {self.name} depths")
        order = drawn.sample(range(setting.cases), setting.cases)
        for case in range(setting.cases):
            rng = random.Random(f"{setting.seed} {documents.domain} {self.name} {case}")
            document = chosen[case % len(chosen)]
            start = rng.randrange(documents.lengths[document] - setting.longest - tail + 1)
            hay = documents.read(document, start, length + tail)
            quiz = self.questions.make(rng, "", "test")
            prompt, answer = prompt_and_answer(setting.tokenizer, quiz)
            facts = [encoded(setting.tokenizer, fact) for fact in quiz.facts]
            room = length + tail - len(prompt) - len(answer)
            if sum(map(len, facts)) > room:
                raise DoesNotFit(
                    f"{self.name}: {len(facts)} facts of {sum(map(len, facts)):,} tokens don't fit into a length of {length:,}"
                )
            depth = ((2 * order[case] + 1) * 5 // setting.cases + 0.5) / 10
            front = self._hide(rng, setting, hay, facts, room, depth)
            label = {"document": documents.names[document], "case": case}
            if len(facts) == 1:
                label["depth"] = depth
            yield Text(np.concatenate([front, prompt, answer]), len(answer), label)

    def values(self, text: Text, scores: Scores) -> dict[str, float]:
        return {"accuracy": float(scores.hits.all()), "tokens": float(scores.hits.float().mean())}

    def _hide(
        self, rng: random.Random, setting: Setting, hay: np.ndarray, facts: list[np.ndarray], room: int, depth: float
    ) -> np.ndarray:
        borders = sentence_borders(setting.tokenizer, hay)
        if len(facts) > 1:
            return hide(rng, hay, facts, room, borders)
        free = room - len(facts[0])
        places = borders[borders <= free]
        at = int(places[np.abs(places - depth * free).argmin()]) if len(places) else int(depth * free)
        return np.concatenate([hay[:at], facts[0], hay[at:free]])


def asking(name: str) -> Asking:
    """The task of a kind of question."""
    return Asking(QUESTIONS[name])


def prompt_and_answer(tokenizer: PreTrainedTokenizerBase, quiz: Quiz) -> tuple[np.ndarray, np.ndarray]:
    """Ids of a question up to its answer, and of the answer, without the full stop after it and without a space before
    it that is a separate token."""
    prompt, response = render(quiz)
    asked, answer = encoded(tokenizer, prompt), encoded(tokenizer, response.removesuffix(STOP))
    spaces = next(i for i, token in enumerate(answer) if tokenizer.decode([token]).strip())
    return np.concatenate([asked, answer[:spaces]]), answer[spaces:]


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    return np.asarray(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64)
