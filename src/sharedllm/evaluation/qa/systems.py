"""The systems that answer: the base without the text, with all of it, or with some pieces of it as text in its window.

A system is a class with `prepare` and `answer`, and an entry in `make`; the memory is in `memory.py`.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from ...utils.errors import UserError
from .meter import Meter
from .pieces import Piece, cut, joined, within
from .rankings import Embeddings, Oracle, Ranking, Words, ranked
from .reader import Reader, Start, TooLong, Written
from .sets import PackedText, Question, Span


class Skipped(Exception):
    """A system can't handle a text; says why."""


@dataclass(frozen=True)
class Ask:
    """One question to a system.

    instruction  end of the question. new_tokens: most tokens of the answer
    budget       tokens of the text that may be shown; None for systems without one
    spans        characters that the followed system selected, for systems that follow another
    """

    question: Question
    instruction: str
    new_tokens: int
    budget: int | None = None
    spans: tuple[Span, ...] = ()

    @property
    def asked(self) -> str:
        """The user's words after the text."""
        return f"{self.question.question}\n{self.instruction}"


@dataclass(frozen=True)
class Reply:
    """text            the reply's text
    context_tokens  tokens read for this question
    selected_tokens tokens of the text among them
    seconds         by step, for this question alone
    operations      its floating-point operations; None if unknown
    spans           shown characters of the text
    written         tokens of the reply
    read_operations floating-point operations of reading the text, once for all questions
    """

    text: str
    context_tokens: int
    selected_tokens: int
    seconds: dict[str, float]
    operations: float | None
    spans: tuple[Span, ...] = ()
    written: int = 0
    read_operations: float = 0.0


class System(Protocol):
    """One way of answering. follows: the system whose pieces it uses, or "". budgeted: whether it uses a budget."""

    @property
    def name(self) -> str: ...
    @property
    def budgeted(self) -> bool: ...
    @property
    def follows(self) -> str: ...

    def prepare(self, text: PackedText) -> Any:
        """Prepare a text, once.

        Raises:
            Skipped: it can't be done.
        """
        ...

    def answer(self, state: Any, ask: Ask) -> Reply:
        """
        Raises:
            Skipped: this question can't be answered.
        """
        ...


class Bench:
    """Shared by all systems: the base, and the pieces of the current text."""

    def __init__(self, reader: Reader, meter: Meter):
        self.reader, self.meter = reader, meter
        self._text, self._pieces = "", []

    def pieces(self, text: PackedText) -> list[Piece]:
        if text.id != self._text:
            self._text, self._pieces = text.id, cut(text, self.meter)
        return self._pieces

    def write(self, start: Start, shown: str, ask: Ask, after_text: bool) -> tuple[Written, int]:
        """The answer, and the number of tokens read for it."""
        prompt = self.reader.prompt(shown, ask.asked, after_text)
        try:
            return self.reader.write(start, prompt, ask.new_tokens), start.length + prompt.shape[1]
        except TooLong as error:
            raise Skipped(str(error)) from None


@dataclass(frozen=True)
class ClosedBook:
    """The question alone."""

    bench: Bench
    name: str = "closed"
    budgeted: bool = False
    follows: str = ""

    def prepare(self, text: PackedText) -> None:
        self.bench.reader.head()

    def answer(self, state: None, ask: Ask) -> Reply:
        return _shown(self.bench, "", (), ask, {})


@dataclass(frozen=True)
class FullAttention:
    """The base reads the whole text once, and every question after it, with full attention over everything.

    limit_s: time limit for a text.
    """

    bench: Bench
    limit_s: float = 3600
    name: str = "full"
    budgeted: bool = False
    follows: str = ""

    def prepare(self, text: PackedText) -> tuple[PackedText, Start]:
        reader = self.bench.reader
        try:
            return text, reader.read(text.text, self.limit_s)
        except TooLong as error:
            raise Skipped(str(error)) from None

    def answer(self, state: tuple[PackedText, Start], ask: Ask) -> Reply:
        text, start = state
        written, context = self.bench.write(start, "", ask, after_text=True)
        return replace(
            _reply(written, context, text.tokens, ((0, len(text.text)),), {}), read_operations=start.operations
        )


@dataclass(frozen=True)
class RankedText:
    """The best pieces by a ranking, as text in the window.

    order: "text", the order of the text, or "rank", with the best one last and so next to the question.
    """

    bench: Bench
    ranking: Ranking
    order: Literal["text", "rank"] = "text"
    budgeted: bool = True
    follows: str = ""

    @property
    def name(self) -> str:
        return f"{self.ranking.name}-text" + ("" if self.order == "text" else "-rank")

    def prepare(self, text: PackedText) -> tuple[PackedText, list[Piece], Any]:
        self.bench.reader.head()
        pieces = self.bench.pieces(text)
        return text, pieces, self.ranking.index(text, pieces)

    def answer(self, state: tuple[PackedText, list[Piece], Any], ask: Ask) -> Reply:
        text, pieces, index = state
        assert ask.budget is not None
        if isinstance(self.ranking, Oracle) and not ask.question.evidence:
            raise Skipped("the set does not say where the answer is")
        begin = time.perf_counter()
        chosen = within(pieces, ranked(self.ranking.scores(index, ask.question)), ask.budget)
        chosen = sorted(chosen) if self.order == "text" else chosen[::-1]
        selecting = time.perf_counter() - begin
        return _shown(self.bench, text.text, _spans(pieces, chosen), ask, {"select": selecting})


@dataclass(frozen=True)
class WrongText:
    """Random pieces of documents that the question is not about: shows the effect of any text on an answer.

    texts: all texts; if a text is one document, its pieces come from another text.
    """

    bench: Bench
    texts: Sequence[PackedText]
    seed: int = 0
    name: str = "wrong"
    budgeted: bool = True
    follows: str = ""

    def prepare(self, text: PackedText) -> PackedText:
        self.bench.reader.head()
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
        # The bench still holds the pieces of the current text.
        pieces = self.bench.pieces(state) if text is state else cut(text, self.bench.meter)
        free = [i for i, p in enumerate(pieces) if not any(d[1] <= p.start < d[2] for d in away)]
        random.Random(f"{self.seed} {ask.question.id}").shuffle(free)
        chosen = sorted(within(pieces, free, ask.budget))
        return _shown(self.bench, text.text, _spans(pieces, chosen), ask, {})


@dataclass(frozen=True)
class SamePieces:
    """Exactly the selection of another system, as text in the window: the baseline that a memory has to beat."""

    bench: Bench
    follows: str
    budgeted: bool = True

    @property
    def name(self) -> str:
        return "same-pieces-text" if self.follows == "sharedllm" else f"same-pieces-text:{self.follows}"

    def prepare(self, text: PackedText) -> PackedText:
        self.bench.reader.head()
        return text

    def answer(self, state: PackedText, ask: Ask) -> Reply:
        return _shown(self.bench, state.text, ask.spans, ask, {})


def _spans(pieces: Sequence[Piece], chosen: Sequence[int]) -> tuple[Span, ...]:
    return tuple((pieces[i].start, pieces[i].end) for i in chosen)


def _shown(bench: Bench, text: str, spans: Sequence[Span], ask: Ask, seconds: Mapping[str, float]) -> Reply:
    """Answer with parts of a text before the question."""
    shown = joined(text, spans)
    written, context = bench.write(bench.reader.head(), shown, ask, bool(shown))
    return _reply(written, context, bench.meter.count(shown) if shown else 0, tuple(spans), seconds)


def _reply(
    written: Written, context: int, selected: int, spans: tuple[Span, ...], seconds: Mapping[str, float]
) -> Reply:
    return Reply(
        written.text, context, selected, {**seconds, **written.seconds}, written.operations, spans, written.tokens
    )


@dataclass
class Cast:
    """Ingredients of systems. shared: makes a system over a memory from its full name; None without a SharedLLM.
    embeddings: folder or hub id of an encoder; "" for none."""

    bench: Bench
    texts: Sequence[PackedText]
    embeddings: str = ""
    limit_s: float = 3600
    seed: int = 0
    shared: Callable[[str], System] | None = None
    _rankings: dict[str, Ranking] = field(default_factory=dict)

    def ranking(self, name: str) -> Ranking:
        """A ranking by name, made once."""
        if name not in self._rankings:
            self._rankings[name] = ranking_of(name, self.embeddings)
        return self._rankings[name]


def ranking_of(name: str, embeddings: str = "") -> Ranking:
    """A ranking by its name: bm25, minilm or oracle.

    Raises:
        UserError: no ranking of that name, or it needs an encoder and none is named.
    """
    if name == "minilm" and not embeddings:
        raise UserError("minilm needs a sentence encoder: name its folder or hub id with --embeddings.")
    made = {"bm25": Words, "oracle": Oracle, "minilm": lambda: Embeddings(embeddings)}
    if name not in made:
        raise UserError(f"the ranking {name!r} is not known: use {', '.join(made)}, or memory:SCORE.")
    return made[name]()


NAMES = (
    "closed",
    "wrong",
    "full",
    "oracle-text",
    "bm25-text",
    "bm25-text-rank",
    "minilm-text",
    "minilm-text-rank",
    "sharedllm",
    "same-pieces-text",
)


def make(name: str, cast: Cast) -> System:
    """A system by its name; "sharedllm:SCORE" selects by another score, "same-pieces-text:SYSTEM" follows another system.

    Raises:
        ValueError: no system of that name, or its model is missing.
    """
    kind, _, variant = name.partition(":")
    if kind == "closed" and not variant:
        return ClosedBook(cast.bench)
    if kind == "wrong" and not variant:
        return WrongText(cast.bench, cast.texts, cast.seed)
    if kind == "full" and not variant:
        return FullAttention(cast.bench, cast.limit_s)
    if kind == "same-pieces-text":
        return SamePieces(cast.bench, variant or "sharedllm")
    if kind == "sharedllm":
        if cast.shared is None:
            raise UserError(f"--system {name} needs a SharedLLM: name one, and its base with --base.")
        return cast.shared(name)
    ranking, _, rest = name.partition("-text")
    if name in NAMES and ranking in ("oracle", "bm25", "minilm"):
        return RankedText(cast.bench, cast.ranking(ranking), "rank" if rest == "-rank" else "text")
    raise UserError(f"--system {name!r} is not known: use some of {', '.join(NAMES)}.")
