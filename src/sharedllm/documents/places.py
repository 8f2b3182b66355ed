"""Where a document comes from, and the place of a stretch of its text in words: "page 12", "lines 3–9", 'section "Results"'."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .extract import numbered

_NUMBERED = re.compile(r"(.*?)([a-z]+?)s? (\d+)(?:–(\d+))?")


@dataclass(frozen=True)
class Origin:
    """The file that a document was read from, and the places in it.

    sha256  of the file's bytes when it was read; "" if they were not known, as for standard input
    title   the document's own title; "" if it has none
    unit    what a line of the text is in the file, "line" or "row"; "" if lines mean nothing
    places  (first character, place) of pages, sections or the like, ascending
    """

    sha256: str = ""
    title: str = ""
    unit: str = ""
    places: tuple[tuple[int, str], ...] = ()

    def within(self, start: int, end: int) -> "Origin":
        """That of the text's characters start … end − 1: places from the one in which they begin, counted from there. It has
        no hash, since it is a part of the file."""
        first = max(bisect_right([character for character, _ in self.places], start) - 1, 0)
        inside = [(max(character - start, 0), place) for character, place in self.places[first:] if character < end]
        return Origin("", self.title, self.unit, tuple(inside))

    def continued(self, characters: int) -> "Origin":
        """That of the file's text of so many characters with another text after it: it has no hash, and what was added is at
        none of the places."""
        added = ((characters, ""),) if self.places and self.places[-1][0] < characters else ()
        return replace(self, sha256="", places=self.places + added)


def place_of(
    places: Sequence[Sequence], start: int, end: int, unit: str = "", lines: tuple[int, int] | None = None
) -> str:
    """
    Args:
        places: (first character, place) in the document, ascending. start, end: characters of the stretch, in the document.
        unit: what a line of the text is in the file. lines: numbers of its first and last line, from 1.

    Returns:
        The place; "" if nothing is known.
    """
    words = [numbered(unit, *lines)] if unit and lines is not None else []
    begins = [place[0] for place in places]
    first, last = (bisect_right(begins, character) - 1 for character in (start, max(start, end - 1)))
    if last >= 0:
        words.append(span(places[max(first, 0)][1], places[last][1]))
    return ", ".join(word for word in words if word)


def span(first: str, last: str) -> str:
    """From one place to another: "page 3", "page 5" → "pages 3–5"."""
    if first == last:
        return first
    begin, end = _NUMBERED.fullmatch(first), _NUMBERED.fullmatch(last)
    if begin and end and begin[1] == end[1] and begin[2] == end[2]:
        return begin[1] + numbered(begin[2], int(begin[3]), int(end[4] or end[3]))
    return f"{first} to {last}" if first and last else first or last
