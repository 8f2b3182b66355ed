"""Long texts in which many facts are hidden, and one question about each."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...data.questions import QUESTIONS
from ...data.questions.base import QuestionTask, Quiz, hide, sentence_borders
from ...data.questions.needle import PHRASINGS
from ...data.synthetic import needle_keys
from ...utils.errors import UserError
from ..corpus import Documents
from ..qa.sets.quoting import QUOTATION
from ..tasks.asking import encoded, prompt_and_answer
from .forms import LEAD, QUOTED, REWORDED

# Every text holds facts of all kinds, so each question has to distinguish its fact from all others.
KINDS: tuple[QuestionTask, ...] = tuple(QUESTIONS[name] for name in ("passkey", "needle", "values"))
# Tokens for the words that a model puts before a value if nobody began its answer.
ROOM = 24
# In place of a quiz's number: a quotation belongs to none.
NOBODY = -1


@dataclass(frozen=True)
class Question:
    """kind: of the fact. prompt, answer: ids. spans: start and end of its facts. free: the answer is in the model's own
    words, which have to name the values; else it continues the prompt."""

    kind: str
    prompt: np.ndarray
    answer: np.ndarray
    spans: list[tuple[int, int]]
    free: bool = False

    @property
    def room(self) -> int:
        """Tokens that an answer may take."""
        return len(self.answer) + (ROOM if self.free else 0)


@dataclass(frozen=True)
class AskedText:
    """ids: (T,) with all facts. questions: about them, in no particular order."""

    ids: np.ndarray
    questions: list[Question]


def make_text(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, length: int, per_kind: int, seed: str, asked: str = LEAD
) -> AskedText:
    """`length` tokens of documents, one after the other as needed, with `per_kind` facts of each kind.

    Keys are of the split `test`, and unique within a text.

    Args:
        asked: one of `forms.FORMS`; the facts are the same for all of them.

    Raises:
        UserError: the facts do not fit into the length, there are too few keys, or all documents together are too short.
    """
    if per_kind * len(KINDS) > len(needle_keys("test")) // 2:
        raise UserError(f"per_kind={per_kind} asks for more keys than there are: ask for fewer questions per text.")
    rng = random.Random(seed)
    quizzes: list[tuple[str, Quiz]] = []
    used: set[str] = set()
    for kind in KINDS:
        while sum(k == kind.name for k, _ in quizzes) < per_kind:
            quiz = kind.make(rng, "", "test")
            # Two facts about one key would have two answers.
            key = next(key for key in needle_keys("test") if key in quiz.question)
            if key not in used:
                used.add(key)
                quizzes.append((kind.name, _asked(quiz, kind.name, key, asked)))
    # The facts of all quizzes in random order, but each quiz's facts in their own order.
    turns = [number for number, (_, quiz) in enumerate(quizzes) for _ in quiz.facts]
    rng.shuffle(turns)
    left = [[encoded(tokenizer, fact) for fact in quiz.facts] for _, quiz in quizzes]
    facts = [left[number].pop(0) for number in turns]
    if asked == QUOTED:
        for _, quiz in quizzes:
            place = rng.randrange(len(facts) + 1)
            facts.insert(place, encoded(tokenizer, QUOTATION.format(question=quiz.question)))
            turns.insert(place, NOBODY)
    room = length - sum(map(len, facts))
    if room < 0:
        raise UserError(
            f"{len(facts)} facts of {length - room:,} tokens don't fit into {length:,}: ask for longer texts."
        )
    filler = _filler(documents, rng, length)
    ids = hide(rng, filler, facts, length, sentence_borders(tokenizer, filler))
    spans: list[list[tuple[int, int]]] = [[] for _ in quizzes]
    at = 0
    for number, fact in zip(turns, facts, strict=True):
        at = _find(ids, fact, at)
        if number != NOBODY:
            spans[number].append((at, at + len(fact)))
        at += len(fact)
    questions = [
        Question(kind, *prompt_and_answer(tokenizer, quiz), places, asked != LEAD)
        for (kind, quiz), places in zip(quizzes, spans, strict=True)
    ]
    return AskedText(ids, questions)


def _asked(quiz: Quiz, kind: str, key: str, form: str) -> Quiz:
    """A quiz in another form of asking."""
    if form == LEAD:
        return quiz
    if form != REWORDED:
        return replace(quiz, lead="")
    if kind == "values":
        return replace(quiz, lead="", question=f"Can you list all that counts for the {key}, as it comes up?")
    # The next phrasing's question: it asks for a code where the fact tells a password, say.
    forms = [question.format(key=key) for _, question, _ in PHRASINGS]
    return replace(quiz, lead="", question=forms[(forms.index(quiz.question) + 1) % len(forms)])


def _filler(documents: Documents, rng: random.Random, length: int) -> np.ndarray:
    order: Sequence[int] = rng.sample(range(len(documents.names)), len(documents.names))
    if sum(documents.lengths) < length:
        raise UserError(
            f"{documents.domain}: all documents together have {sum(documents.lengths):,} tokens, fewer than {length:,}."
        )
    long = [i for i in order if documents.lengths[i] >= length]
    if long:
        return documents.read(long[0], rng.randrange(documents.lengths[long[0]] - length + 1), length)
    parts, missing = [], length
    for document in order:
        parts.append(documents.read(document, 0, min(documents.lengths[document], missing)))
        missing -= len(parts[-1])
        if not missing:
            break
    return np.concatenate(parts)


def _find(ids: np.ndarray, fact: np.ndarray, begin: int) -> int:
    """The first place of a fact at or after `begin`."""
    for start in begin + np.flatnonzero(ids[begin : len(ids) - len(fact) + 1] == fact[0]):
        if np.array_equal(ids[start : start + len(fact)], fact):
            return int(start)
    raise AssertionError("every fact was hidden")
