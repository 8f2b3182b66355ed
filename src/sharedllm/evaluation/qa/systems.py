"""The interface of a system for `sharedllm qa`: it answers questions about one text after another.

`sharedllm.systems` has the list. Systems that answer with text are in `text_systems`, the memory is in `memory`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...prompts import PromptForm
from ...systems import SYSTEMS
from ...systems.entry import System
from ...utils.errors import UserError
from ...utils.registry import load
from .meter import Meter
from .pieces import Piece, cut
from .rankings import Ranking, ranking_of
from .reader import Reader, Start, TooLong, Written
from .sets import PackedText, Question, Span


class Skipped(Exception):
    """A system can't handle a text; says why."""


@dataclass(frozen=True)
class Ask:
    """One question to a system.

    instruction  how to answer. new_tokens: most tokens of the answer
    budget       tokens of the text that may be shown; None for systems without one
    spans        characters that the followed system selected, for systems that follow another
    """

    question: Question
    instruction: str
    new_tokens: int
    budget: int | None = None
    spans: tuple[Span, ...] = ()

    def asked(self, form: PromptForm) -> str:
        """The user's words after the text."""
        return form.with_instruction(self.question.question, self.instruction)


@dataclass(frozen=True)
class Reply:
    """text            the reply's text
    context_tokens  tokens read for this question
    selected_tokens tokens of the text among them
    seconds         by step, for this question alone
    operations      its floating-point operations; None if unknown
    again_operations  those of the same question, if its pieces are read already; None if they would be read again
    spans           shown characters of the text
    written         tokens of the reply
    read_operations floating-point operations of reading the text, once for all questions
    read_seconds    of reading the text; None: the time of `prepare`
    """

    text: str
    context_tokens: int
    selected_tokens: int
    seconds: dict[str, float]
    operations: float | None
    spans: tuple[Span, ...] = ()
    written: int = 0
    read_operations: float = 0.0
    again_operations: float | None = None
    read_seconds: float | None = None


class AskedSystem(Protocol):
    """One way of answering. follows: the system whose pieces it uses, or "". budgeted: whether it uses a budget."""

    @property
    def name(self) -> str: ...
    @property
    def budgeted(self) -> bool: ...
    @property
    def follows(self) -> str: ...

    @property
    def about(self) -> dict[str, Any]:
        """What decides its answers besides its name, the questions and the models; as JSON."""
        ...

    def stands(self, row: dict[str, Any]) -> bool:
        """Whether a stored answer is still its own; where it isn't, the question is asked again."""
        ...

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


class Decided:
    """A system whose answers are decided by its name, the questions and the models alone."""

    @property
    def about(self) -> dict[str, Any]:
        return {}

    def stands(self, row: dict[str, Any]) -> bool:
        return True


class Harness:
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
        prompt = self.reader.prompt(shown, ask.asked(self.reader.form), after_text)
        try:
            return self.reader.write(start, prompt, ask.new_tokens), start.length + prompt.shape[1]
        except TooLong as error:
            raise Skipped(str(error)) from None


@dataclass
class Resources:
    """What systems are made from. shared: makes a system over a memory from its full name; None without a SharedLLM.
    embeddings: folder or hub id of an encoder; "" for none."""

    harness: Harness
    texts: Sequence[PackedText]
    embeddings: str = ""
    limit_s: float = 3600
    seed: int = 0
    shared: Callable[[str], AskedSystem] | None = None
    _rankings: dict[str, Ranking] = field(default_factory=dict)

    def ranking(self, name: str) -> Ranking:
        """A ranking by name, made once."""
        if name not in self._rankings:
            self._rankings[name] = ranking_of(name, self.embeddings)
        return self._rankings[name]


def asked_names() -> list[str]:
    """The systems of the registry that can be asked."""
    return [name for name, system in SYSTEMS.items() if system.asked]


def make(name: str, resources: Resources) -> AskedSystem:
    """A system by its name; "sharedllm:SCORE" selects by another score, "same-pieces-text:SYSTEM" follows another system.

    Raises:
        UserError: no system of that name, or its model is missing.
    """
    return load(_entry(name).asked)(name, name.partition(":")[2], resources)


def listed(names: str) -> list[str]:
    """The systems in a list with commas.

    Raises:
        UserError: there is none, or one is not known.
    """
    found = [part.strip() for part in names.split(",") if part.strip()]
    if not found:
        raise UserError(f"system={names!r} names no system: use some of {', '.join(asked_names())}.")
    for name in found:
        _entry(name)
    return found


def _entry(name: str) -> System:
    kind, _, variant = name.partition(":")
    entry = SYSTEMS.get(kind)
    if entry is None or not entry.asked or (variant and not entry.variants):
        raise UserError(f"system={name!r} is not known: use some of {', '.join(asked_names())}.")
    return entry
