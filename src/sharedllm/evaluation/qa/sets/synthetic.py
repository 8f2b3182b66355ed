"""Generated facts hidden in books: similar facts, several values, variables that pass on a value."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from ....data.questions import QUESTIONS
from ....data.questions.base import QuestionTask, Quiz, Split
from ....data.questions.needle import PHRASINGS
from ....data.questions.vocabulary import digits
from ....data.synthetic import needle_keys
from ....prompts import FEW_WORDS
from ....utils.errors import UserError
from ..meter import Meter
from .base import Builder, Item, PackedText, Question, Span, TextSpec
from .books import prose

# A text has this many questions about similar facts, or one larger crowd: several crowds, each with another phrasing.
CROWDED = 20


@dataclass(frozen=True)
class Facts:
    """`alike` facts of one form about different keys, with questions about all of them. Small crowds share a text, each
    with its own form. Keys of the even and odd halves are disjoint."""

    alike: int
    metrics: tuple[str, ...] = ("hit",)
    instruction: str = FEW_WORDS
    new_tokens: int = 16

    @property
    def name(self) -> str:
        return f"keys-{self.alike}"

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        return hidden_facts(self.name, self._quizzes, spec, meter)

    def _quizzes(self, rng: random.Random, split: Split) -> list[Quiz]:
        crowds = max(1, min(len(PHRASINGS), CROWDED // self.alike))
        keys = iter(rng.sample(needle_keys(split), crowds * self.alike))
        made = []
        for fact, question, lead in rng.sample(PHRASINGS, crowds):
            for _ in range(self.alike):
                key, value = next(keys), digits(rng)
                text = fact.format(key=key, value=value)
                made.append(Quiz((text,), question.format(key=key), value, lead.format(key=key)))
        return made


@dataclass(frozen=True)
class Values:
    """Keys with three values each, at different places; questions ask for all three."""

    name: str = "values"
    metrics: tuple[str, ...] = ("named", "all_named")
    instruction: str = FEW_WORDS
    new_tokens: int = 24

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        return hidden_facts(self.name, lambda rng, split: _distinct(QUESTIONS["values"], rng, split, 8), spec, meter)


@dataclass(frozen=True)
class Tracking:
    """A value passed on from variable to variable, one to four times, next to other chains."""

    name: str = "variables"
    metrics: tuple[str, ...] = ("hit",)
    instruction: str = FEW_WORDS
    new_tokens: int = 16

    def texts(self, spec: TextSpec, meter: Meter) -> Iterator[PackedText]:
        return hidden_facts(self.name, lambda rng, split: _distinct(QUESTIONS["variables"], rng, split, 4), spec, meter)


def _distinct(task: QuestionTask, rng: random.Random, split: Split, wanted: int) -> list[Quiz]:
    """Quizzes whose facts share no names."""
    made, used = [], set()
    while len(made) < wanted:
        quiz = task.make(rng, "", split)
        names = set(re.findall(r"VAR (\w+)", " ".join(quiz.facts))) or {quiz.question}
        if not names & used:
            made.append(quiz)
            used |= names
    return made


def hidden_facts(
    name: str,
    quizzes: Callable[[random.Random, Split], list[Quiz]],
    spec: TextSpec,
    meter: Meter,
    *,
    repeated: bool = False,
) -> Iterator[PackedText]:
    """Texts of books with the facts of quizzes hidden in them, without end.

    Args:
        quizzes: makes those of one text. repeated: other texts have the same ones, so the answers to one are a group.

    Raises:
        UserError: the texts are too short for the facts, or longer than all books.
    """
    if spec.length < 512:
        raise UserError(f"length={spec.length}: {name} needs texts of at least 512 tokens.")
    split: Split = "validation" if spec.half == "even" else "test"
    books = [text for _, text in prose(spec.folder, f"in whose books the set {name} hides its facts")]
    for number in count():
        rng = random.Random(f"{spec.seed} {name} {spec.length} {split} {number}")
        made = quizzes(rng, split)
        title = f"{name}-{spec.length}-{split}-{number}"
        yield _text(title, made, [q.question if repeated else title for q in made], books, rng, spec, meter)


def _text(
    name: str,
    quizzes: list[Quiz],
    groups: list[str],
    books: list[str],
    rng: random.Random,
    spec: TextSpec,
    meter: Meter,
) -> PackedText:
    # The facts of all quizzes in random order, but each quiz's facts in their own order.
    turns = [number for number, quiz in enumerate(quizzes) for _ in quiz.facts]
    rng.shuffle(turns)
    left = [list(quiz.facts) for quiz in quizzes]
    facts = [left[number].pop(0) for number in turns]
    room = spec.length - sum(map(meter.count, facts))
    if room < 0:
        raise UserError(f"{name}: the facts don't fit into {spec.length:,} tokens: ask for longer texts.")
    text, places = _hidden(_filler(books, rng, room, meter), facts, rng)
    evidence: list[list[Span]] = [[] for _ in quizzes]
    for number, place in zip(turns, places, strict=True):
        evidence[number].append(place)
    questions = [
        Question(f"{name}-{i}", quiz.question, tuple(quiz.answer.split(", ")), tuple(evidence[i]), groups[i])
        for i, quiz in enumerate(quizzes)
    ]
    builder = Builder()
    item = Item(name, text)
    builder.add(item)
    return builder.done(name, [(item, rng.sample(questions, min(len(questions), spec.per_text)))], meter)


def _filler(books: list[str], rng: random.Random, tokens: int, meter: Meter) -> str:
    """Running text of so many tokens, starting at a paragraph; from several books if one is too short."""
    order = rng.sample(books, len(books))
    start = order[0].find("\n\n", rng.randrange(len(order[0]))) + 2
    text, number = order[0][start if start > 1 else 0 :], 0
    # Take more characters than so many tokens can have; then cut exactly.
    while len(text) < 12 * tokens and number + 1 < len(order):
        number += 1
        text += "\n\n" + order[number]
    found = meter.cut(text[: 12 * tokens], tokens)
    if meter.count(found) < 0.9 * tokens:
        raise UserError(f"the books together are shorter than {tokens:,} tokens: ask for shorter texts.")
    return found


def _hidden(filler: str, facts: list[str], rng: random.Random) -> tuple[str, list[Span]]:
    """The filler with the facts inserted after sentence ends, in order, and the place of each."""
    borders = [m.end() for m in re.finditer(r"[.!?][\"'”’)]*(?=\s)", filler)] or [len(filler)]
    cuts = sorted(rng.choice(borders) for _ in facts)
    text, places, previous = "", [], 0
    for cut, fact in zip(cuts, facts, strict=True):
        text += filler[previous:cut]
        places.append((len(text) + 1, len(text) + len(fact)))
        text += fact
        previous = cut
    return text + filler[previous:], places
