"""Texts of any length in pieces that fit into a window: every token is scored once, given everything before it.

Borders are at multiples of the chunk size C, or of half the window if a chunk is longer than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """text[first:end] is scored with running text text[start : end − 1] over a memory of text[:start]."""

    text: Ids
    start: int
    first: int
    end: int
    query: Ids

    def shares(self, other: "Piece") -> bool:
        """Whether both need the same forward pass: they differ at most in their last token."""
        ours, theirs = ((p.start, p.first, p.end, p.query) for p in (self, other))
        return ours == theirs and self.text[: self.end - 1] == other.text[: self.end - 1]


def border(length: int, room: int, chunk_size: int) -> int:
    """Where the running text begins: the first border after which at most `room` of `length` tokens remain."""
    step = _step(room, chunk_size)
    return -(-max(0, length - room) // step) * step


def spans(first: int, end: int, window: int, chunk_size: int) -> list[tuple[int, int, int]]:
    """How to score tokens `first` … `end` − 1: for each piece (start, first, end) as in `Piece`."""
    start = border(end - 1, window, chunk_size)
    if start < first:
        return [(start, first, end)]
    step = _step(window, chunk_size)
    block = max(1, window // 2) // step * step
    start, found = border(first - 1, window - block, step), []
    while first < end:
        stop = min(end, start + window + 1)
        found.append((start, first, stop))
        start, first = start + block, stop
    return found


def _step(room: int, chunk_size: int) -> int:
    return chunk_size if chunk_size <= room // 2 else max(1, room // 2)


def in_order(last: Piece) -> tuple:
    """Sort key of texts by their last pieces: without a memory the longest first, because equal lengths need no padding."""
    return last.start == 0, -len(last.text) if last.start == 0 else 0, last.text


def left_pad(rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids (B, L), padded with 0 on the left, and mask (B, L)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([(0,) * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
