"""The pieces of a text, the same for every ranking of passages: at most 160 tokens, ending at a sentence end if possible,
else behind a comma or a semicolon."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...scoring.embedded import ENDS
from .meter import Meter
from .sets import PackedText, Span

SIZE = 160
# Where a piece ends in which no sentence does.
PAUSES = re.compile("[,;]")


@dataclass(frozen=True)
class Piece:
    """Characters start … end − 1 of a text; tokens: number of tokens that begin in it."""

    start: int
    end: int
    tokens: int


def cut(text: PackedText, meter: Meter, size: int = SIZE) -> list[Piece]:
    """Cut a whole text in order. A natural part (a passage, a section) is one piece if it is short enough, otherwise as
    few pieces as possible, about equally long. No piece crosses the border of a part.
    """
    ends = meter.tokens(text.text)[1]
    borders = [[match.end() for match in kind.finditer(text.text)] for kind in (ENDS, PAUSES)]
    pieces = []
    for start, end in text.parts:
        pieces += _part(start, end, ends, borders, size)
    return pieces


def _part(start: int, end: int, ends: np.ndarray, borders: Sequence[Sequence[int]], size: int) -> list[Piece]:
    first, last = (int(np.searchsorted(ends, at, side="right")) for at in (start, end))
    found = []
    while last - first > size:
        left = -(-(last - first) // size)
        target = first + (last - first) / left
        # Consider ends where the piece would be between half full and full; take the one nearest to an equal share.
        low, high = int(ends[first + size // 2 - 1]), int(ends[first + size - 1])
        wished = int(ends[int(target) - 1])
        near = (kind[bisect_left(kind, low) : bisect_right(kind, high)] for kind in borders)
        at = min(next(filter(None, near), [wished]), key=lambda border: abs(border - wished))
        count = int(np.searchsorted(ends, at, side="right")) - first
        found.append(Piece(start, at, count))
        start, first = at, first + count
    return [*found, Piece(start, end, last - first)] if end > start else found


def joined(text: str, spans: Sequence[Span]) -> str:
    """Join parts of a text in the given order, with a blank line between parts that are not adjacent."""
    out, previous = "", None
    for start, end in spans:
        gap = "" if previous is None else "" if previous == start else "\n\n"
        out += gap + (text[start:end] if gap == "" and previous is not None else text[start:end].lstrip())
        previous = end
    return out.rstrip()


def within(pieces: Sequence[Piece], order: Sequence[int], budget: int) -> list[int]:
    """The pieces, best first, that fit into a budget of tokens; pieces that no longer fit are left out."""
    chosen = []
    for number in order:
        if pieces[number].tokens <= budget:
            chosen.append(number)
            budget -= pieces[number].tokens
    return chosen


def golden(pieces: Sequence[Piece], evidence: Sequence[Span]) -> list[list[int]]:
    """For each place of evidence the pieces that hold it: the overlap is at least half of the piece or of the evidence."""
    found = []
    for start, end in evidence:
        shares = {
            i: min(end, p.end) - max(start, p.start) for i, p in enumerate(pieces) if p.start < end and p.end > start
        }
        most = max(shares.values(), default=0)
        found.append(
            [i for i, s in shares.items() if 2 * s >= min(end - start, pieces[i].end - pieces[i].start) or s == most]
        )
    return found
