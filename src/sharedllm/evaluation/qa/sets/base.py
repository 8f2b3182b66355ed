"""Sets of questions, and packing their documents into texts of any length.

A text is read once and asked many times, so one text holds the documents of many questions, among other documents of
the same file. Even ids are for choosing settings, odd ids for reporting.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ....data.sources import LINES, records
from ....utils.errors import UserError
from ..meter import Meter

Span = tuple[int, int]
Half = Literal["even", "odd", "all"]
BETWEEN = "\n\n"


@dataclass(frozen=True)
class Question:
    """A question about a text.

    id        unique in its set
    answers   right answers, each sufficient
    evidence  start and end of the characters that hold the answer; none if unknown
    group     subject of the question: questions of one group (a story, a book) are not independent
    kind      a part of the set that is reported separately, or ""
    """

    id: str
    question: str
    answers: tuple[str, ...]
    evidence: tuple[Span, ...]
    group: str
    kind: str = ""


@dataclass(frozen=True)
class Item:
    """A document with the questions about it; `evidence` counts from its own beginning.

    parts      natural pieces of the text, such as the sections of a story; none if it has none
    scattered  the parts are put anywhere in a packed text, separately
    """

    name: str
    text: str
    questions: tuple[Question, ...] = ()
    parts: tuple[Span, ...] = ()
    scattered: bool = False


@dataclass(frozen=True)
class PackedText:
    """A text to read once, and the questions for it.

    documents  name and characters of each document, in the order of the text
    parts      natural pieces, ascending; a document without parts is one piece
    tokens     number of tokens
    """

    id: str
    text: str
    documents: tuple[tuple[str, int, int], ...]
    parts: tuple[Span, ...]
    questions: tuple[Question, ...]
    tokens: int


@dataclass(frozen=True)
class TextSpec:
    """The requested texts.

    length    most tokens of a text; 0: each document alone and whole
    half      half of the ids
    per_text  most questions about one text
    seed      seed of choice and order
    """

    folder: Path
    length: int
    half: Half = "odd"
    per_text: int = 50
    seed: int = 0

    def takes(self, number: int) -> bool:
        """Whether a question or document with this number belongs to the half."""
        return self.half == "all" or (number % 2 == 0) == (self.half == "even")


class QuestionSet(Protocol):
    """One set: making texts from its file, asking and scoring.

    metrics      names from `metrics.METRICS`, the main one first
    instruction  how to answer every question, the same for every system
    new_tokens   most tokens of an answer
    """

    @property
    def name(self) -> str: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def instruction(self) -> str: ...
    @property
    def new_tokens(self) -> int: ...

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        """Texts with the questions of the half, each at most once; generated sets never end.

        Raises:
            ValueError: the file is missing, or the length is impossible.
        """
        ...


def read_set(folder: Path, name: str, why: str = "") -> list[dict[str, Any]]:
    """The records of NAME-dev.jsonl, .jsonl.gz or .jsonl.zst, or without -dev.

    Args:
        why: what another set needs these for, for the message if they are missing.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    names = [f"{name}{half}{suffix}" for half in ("-dev", "") for suffix in LINES]
    for file in names:
        if (folder / file).is_file():
            return [dict(record) for _, record in records(str(folder / file))]  # pyright: ignore[reportCallIssue]
    lacking = f"{folder} holds no {names[2]} or {names[0]}"
    raise UserError(f"{lacking}{why and f', {why}'}: name the folder with the question sets.")


class Builder:
    """Collects documents one after the other, then the questions about them."""

    def __init__(self):
        self.documents: list[tuple[str, int, int]] = []
        self.parts: list[Span] = []
        self._pieces: list[str] = []
        self._length = 0
        # (item, start and end in it) → place in the text.
        self._placed: dict[int, list[tuple[Span, int]]] = {}

    def add(self, item: Item, span: Span | None = None) -> None:
        """Add a document, or the part of it given by `span`."""
        first, last = span or (0, len(item.text))
        if self._pieces:
            self._pieces.append(BETWEEN)
            self._length += len(BETWEEN)
        start = self._length
        self._pieces.append(item.text[first:last])
        self._length += last - first
        self.documents.append((item.name, start, self._length))
        inside = [(a, b) for a, b in item.parts if first <= a and b <= last] or [(first, last)]
        self.parts += [(start + a - first, start + b - first) for a, b in inside]
        self._placed.setdefault(id(item), []).append(((first, last), start))

    def done(self, name: str, asked: Sequence[tuple[Item, Sequence[Question]]], meter: Meter) -> PackedText:
        """The text, with questions about the added documents."""
        text = "".join(self._pieces)
        questions = tuple(
            replace(q, evidence=tuple(sorted(self._place(item, span) for span in q.evidence)))
            for item, some in asked
            for q in some
        )
        return PackedText(name, text, tuple(self.documents), tuple(self.parts), questions, len(meter.tokens(text)[0]))

    def _place(self, item: Item, span: Span) -> Span:
        for (first, last), start in self._placed[id(item)]:
            if first <= span[0] and span[1] <= last:
                return (start + span[0] - first, start + span[1] - first)
        raise AssertionError("evidence lies in a document that was added")


def pack(
    name: str, wanted: Sequence[Item], others: Sequence[Item], filler: Sequence[Item], spec: TextSpec, meter: Meter
) -> Iterator[PackedText]:
    """Pack texts of at most `spec.length` tokens until every document of `wanted` is in one. The last document of a text gives as
    many of its questions as `spec.per_text` leaves; the others are not asked.

    Args:
        wanted: documents whose questions, if they have any, are asked; they also distract from one another. others: more distractors.
        filler: documents for texts longer than all of these together.

    Raises:
        ValueError: a document is longer than the text, or all documents together are much shorter.
    """
    wanted, others = [item for item in wanted if item.questions], [*others, *(i for i in wanted if not i.questions)]
    between = meter.count(BETWEEN)
    size = {id(item): meter.count(item.text) + between for item in (*wanted, *others, *filler)}
    if spec.length == 0:
        for item in wanted:
            # If a document has more questions than a text may have, drop some at random, not by order.
            some = _drawn(item.questions, spec.per_text, f"{spec.seed} {item.name}")
            builder = Builder()
            builder.add(item)
            yield builder.done(f"{name}-{item.questions[0].group}", [(item, some)], meter)
        return
    total = sum(size.values())
    if total < 0.9 * spec.length:
        raise UserError(f"{name}: all documents together have {total:,} tokens, but {spec.length:,} are requested.")
    queue = random.Random(f"{spec.seed} {name}").sample(list(wanted), len(wanted))
    number = 0
    while queue:
        rng = random.Random(f"{spec.seed} {name} {spec.length} {number}")
        asked: dict[int, list[Question]] = {}
        left, count, later = spec.length, 0, []
        for item in queue:
            if count < spec.per_text and size[id(item)] <= left:
                questions = _drawn(item.questions, spec.per_text - count, f"{spec.seed} {item.name}")
                asked[id(item)] = questions
                left, count = left - size[id(item)], count + len(questions)
            else:
                later.append(item)
        if not asked:
            raise UserError(f"{name}: no document fits into {spec.length:,} tokens: ask for longer texts.")
        chosen = [item for item in queue if id(item) in asked]
        for pool in ([item for item in (*wanted, *others) if id(item) not in asked], filler):
            for item in rng.sample(list(pool), len(pool)):
                if size[id(item)] <= left:
                    chosen.append(item)
                    left -= size[id(item)]
        fragments = [(item, span) for item in chosen for span in (item.parts if item.scattered else (None,))]
        rng.shuffle(fragments)
        builder = Builder()
        for item, span in fragments:
            builder.add(item, span)
        yield builder.done(
            f"{name}-{spec.length}-{number}", [(item, asked[id(item)]) for item in chosen if id(item) in asked], meter
        )
        queue, number = later, number + 1


def _drawn(questions: Sequence[Question], most: int, seed: str) -> list[Question]:
    if len(questions) <= most:
        return list(questions)
    kept = sorted(random.Random(seed).sample(range(len(questions)), most))
    return [questions[i] for i in kept]
