"""The numbers of an OpenDocument's lists and headings. Its file has rules for them, as a Word document has."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from .numbering import written
from .package import attribute, local

_FORMS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman", "": "none"}
# The text around numbers has some words at most.
_LONGEST = 100


@dataclass(frozen=True)
class Level:
    """form: how numbers are written, as `numbering` names it. before, after: text around them. shown: so many levels, up to this one.
    start: the first number."""

    form: str
    before: str
    after: str
    shown: int
    start: int


@dataclass
class Lists:
    """Counts items and headings in the order of the text.

    levels    of each style of lists that has numbers: number of the level, from 1 → its rules; a bullet has none
    headings  the same for headings
    """

    levels: dict[str, dict[int, Level]] = field(default_factory=dict)
    headings: dict[int, Level] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _counts: dict[str, dict[int, int]] = field(default_factory=dict)

    def enter(self, style: str, goes_on: bool) -> None:
        """A list begins, maybe in an item of another one, whose style it has if it names none."""
        style = style or (self._open[-1] if self._open else "")
        if not self._open and not goes_on:
            self._counts.pop(style, None)
        self._open.append(style)

    def leave(self) -> None:
        self._open.pop()

    def item(self, start: int | None) -> str | None:
        """What the next item of the innermost list begins with; None if that is a bullet."""
        style, depth = self._open[-1], len(self._open)
        levels = self.levels.get(style, {})
        return _next(levels, self._counts.setdefault(style, {}), depth, start) if depth in levels else None

    def heading(self, level: int) -> str:
        """What the next heading begins with."""
        # No list has this name.
        return _next(self.headings, self._counts.setdefault("\0", {}), level, None) if level in self.headings else ""


def lists_of(content: Element, styles: Element) -> Lists:
    """The rules of a document."""
    lists = Lists()
    for root in (styles, content):
        for style in root.iter():
            kind = local(style)
            if kind == "list-style":
                lists.levels[attribute(style, "name")] = dict(_levels(style))
            elif kind == "outline-style":
                lists.headings = dict(_levels(style))
    return lists


def _levels(style: Element) -> Iterator[tuple[int, Level]]:
    for each in style:
        if local(each) not in ("list-level-style-number", "outline-level-style"):
            continue
        level = _whole(attribute(each, "level"), 1)
        form = _FORMS.get(attribute(each, "num-format"), "decimal")
        before, after = attribute(each, "num-prefix"), attribute(each, "num-suffix")
        if form == "none" and not (before + after).strip():  # most headings
            continue
        before, after = (text if len(text) <= _LONGEST else "" for text in (before, after))
        yield (
            level,
            Level(
                form,
                before,
                after,
                _whole(attribute(each, "display-levels"), 1),
                _whole(attribute(each, "start-value"), 1),
            ),
        )


def _next(levels: dict[int, Level], counts: dict[int, int], at: int, start: int | None) -> str:
    """The number of the next item of a level, with those of the levels that it shows too: "2.1. "."""
    own = levels[at]
    counts[at] = start if start is not None else counts[at] + 1 if at in counts else own.start
    for deeper in [each for each in counts if each > at]:
        del counts[deeper]
    shown = [level for level in range(max(1, at - own.shown + 1), at + 1) if level in levels]
    numbers = [written(counts.setdefault(level, levels[level].start), levels[level].form) for level in shown]
    label = f"{own.before}{'.'.join(filter(None, numbers))}{own.after}".strip()
    return f"{label} " if label else ""


def _whole(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else otherwise
