"""The systems of `sharedllm qa` that answer with text in the base's window: none of it, all of it, or some pieces.

Each is one class and one function that makes it; its entry in `sharedllm.systems` names the function.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ...scoring.rankings import LEAST_SHARE
from ...utils.errors import UserError
from ...utils.hardware import now
from .pieces import Piece, cut, joined, within
from .rankings import Oracle, Ranking, ranked
from .reader import Start, TooLong, Written
from .sets import PackedText, Span
from .systems import Ask, AskedSystem, Decided, Harness, Reply, Resources, Skipped


@dataclass(frozen=True)
class ClosedBook(Decided):
    """The question alone."""

    harness: Harness
    name: str = "closed"
    budgeted: bool = False
    follows: str = ""

    def prepare(self, text: PackedText) -> None:
        self.harness.reader.head()

    def answer(self, state: None, ask: Ask) -> Reply:
        return _shown(self.harness, "", (), ask, {})


@dataclass(frozen=True)
class FullAttention(Decided):
    """The base reads the whole text once, and every question after it, with full attention over everything.

    limit_s: time limit for a text.
    """

    harness: Harness
    limit_s: float = 3600
    name: str = "full"
    budgeted: bool = False
    follows: str = ""

    def prepare(self, text: PackedText) -> tuple[PackedText, Start]:
        reader = self.harness.reader
        try:
            return text, reader.read(text.text, self.limit_s)
        except TooLong as error:
            raise Skipped(str(error)) from None

    def answer(self, state: tuple[PackedText, Start], ask: Ask) -> Reply:
        text, start = state
        written, context = self.harness.write(start, "", ask, after_text=True)
        return replace(
            _reply(written, context, text.tokens, ((0, len(text.text)),), {}), read_operations=start.operations
        )


@dataclass(frozen=True)
class RankedText(Decided):
    """The best pieces by a ranking, as text in the window.

    order: "text", the order of the text, or "rank", with the best one last and so next to the question.
    few: pieces that score much less than the best one are left out, as a memory leaves them out. What they have of the question
        does not count, which harms rankings by more than words (docs/real/choices.md).
    """

    harness: Harness
    ranking: Ranking
    order: Literal["text", "rank"] = "text"
    few: bool = False
    budgeted: bool = True
    follows: str = ""

    @property
    def name(self) -> str:
        few = "-few" if self.few else ""
        return f"{self.ranking.name}{few}-text" + ("" if self.order == "text" else "-rank")

    @property
    def about(self) -> dict[str, Any]:
        return self.ranking.about

    def prepare(self, text: PackedText) -> tuple[PackedText, list[Piece], Any, float]:
        self.harness.reader.head()
        pieces, before = self.harness.pieces(text), self.ranking.operations
        return text, pieces, self.ranking.index(text, pieces), self.ranking.operations - before

    def answer(self, state: tuple[PackedText, list[Piece], Any, float], ask: Ask) -> Reply:
        text, pieces, index, read = state
        assert ask.budget is not None
        if isinstance(self.ranking, Oracle) and not ask.question.evidence:
            raise Skipped("the set does not say where the answer is")
        begin, before = now(), self.ranking.operations
        scores = self.ranking.scores(index, ask.question)
        least = LEAST_SHARE * scores.max() if self.few else -np.inf
        chosen = within(pieces, [i for i in ranked(scores) if scores[i] >= least], ask.budget)
        chosen = sorted(chosen) if self.order == "text" else chosen[::-1]
        selecting = now() - begin
        reply = _shown(self.harness, text.text, _spans(pieces, chosen), ask, {"select": selecting})
        spent = self.ranking.operations - before
        return replace(reply, operations=(reply.operations or 0.0) + spent, read_operations=read)


@dataclass(frozen=True)
class WrongText(Decided):
    """Random pieces of documents that the question is not about: shows the effect of any text on an answer.

    texts: all texts; if a text is one document, its pieces come from another text.
    """

    harness: Harness
    texts: Sequence[PackedText]
    seed: int = 0
    name: str = "wrong"
    budgeted: bool = True
    follows: str = ""

    def prepare(self, text: PackedText) -> PackedText:
        self.harness.reader.head()
        return text

    def answer(self, state: PackedText, ask: Ask) -> Reply:
        assert ask.budget is not None
        about = [
            d for d in state.documents if any(a < d[2] and b > d[1] for a, b in ask.question.evidence)
        ]  # fmt: skip
        text, away = state, about
        if len(state.documents) < 2 or not about:
            others = [t for t in self.texts if not {q.group for q in t.questions} & {ask.question.group}]
            if not others:
                raise Skipped("there is no other text: ask more questions")
            rng = random.Random(f"{self.seed} {ask.question.id}")
            text, away = rng.choice(others), []
        # The harness still holds the pieces of the current text.
        pieces = self.harness.pieces(state) if text is state else cut(text, self.harness.meter)
        free = [i for i, p in enumerate(pieces) if not any(d[1] <= p.start < d[2] for d in away)]
        random.Random(f"{self.seed} {ask.question.id}").shuffle(free)
        chosen = sorted(within(pieces, free, ask.budget))
        return _shown(self.harness, text.text, _spans(pieces, chosen), ask, {})


@dataclass(frozen=True)
class SamePieces(Decided):
    """Exactly the selection of another system, as text in the window: the baseline that a memory has to beat."""

    harness: Harness
    follows: str
    budgeted: bool = True

    @property
    def name(self) -> str:
        return "same-pieces-text" if self.follows == "sharedllm" else f"same-pieces-text:{self.follows}"

    def prepare(self, text: PackedText) -> PackedText:
        self.harness.reader.head()
        return text

    def answer(self, state: PackedText, ask: Ask) -> Reply:
        return _shown(self.harness, state.text, ask.spans, ask, {})


def _spans(pieces: Sequence[Piece], chosen: Sequence[int]) -> tuple[Span, ...]:
    return tuple((pieces[i].start, pieces[i].end) for i in chosen)


def _shown(harness: Harness, text: str, spans: Sequence[Span], ask: Ask, seconds: Mapping[str, float]) -> Reply:
    """Answer with parts of a text before the question."""
    shown = joined(text, spans)
    written, context = harness.write(harness.reader.head(), shown, ask, bool(shown))
    return _reply(written, context, harness.meter.count(shown) if shown else 0, tuple(spans), seconds)


def _reply(
    written: Written, context: int, selected: int, spans: tuple[Span, ...], seconds: Mapping[str, float]
) -> Reply:
    return Reply(
        written.text, context, selected, {**seconds, **written.seconds}, written.operations, spans, written.tokens
    )


def closed(name: str, variant: str, resources: Resources) -> AskedSystem:
    return ClosedBook(resources.harness)


def wrong(name: str, variant: str, resources: Resources) -> AskedSystem:
    return WrongText(resources.harness, resources.texts, resources.seed)


def full(name: str, variant: str, resources: Resources) -> AskedSystem:
    return FullAttention(resources.harness, resources.limit_s)


def pieces(name: str, variant: str, resources: Resources) -> AskedSystem:
    ranking, _, order = name.partition("-text")
    few = ranking.endswith("-few")
    return RankedText(
        resources.harness,
        resources.ranking(ranking.removesuffix("-few")),
        "rank" if order == "-rank" else "text",
        few,
    )


def same_pieces(name: str, variant: str, resources: Resources) -> AskedSystem:
    return SamePieces(resources.harness, variant or "sharedllm")


def shared(name: str, variant: str, resources: Resources) -> AskedSystem:
    """
    Raises:
        UserError: no SharedLLM is given.
    """
    if resources.shared is None:
        raise UserError(f"system={name!r} needs a SharedLLM: name one, and its base.")
    return resources.shared(name)
