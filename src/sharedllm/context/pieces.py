"""Pieces: stretches of text that are selected whole, and read alone. Each ends at the end of a sentence if there is one in
time, else at the end of a clause or of an item of a list.

Pure functions over slots. Scores rank pieces and the deeper layers read them, so a piece has to be large enough to hold
a fact with its context, and small enough that a budget holds several.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..utils.errors import UserError, at_least_one

# Least tokens of a piece. It ends with the first sentence end after that, and at twice that length in any case.
LEAST = 96


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens that end a sentence, and of those that end a clause or an item of a list: pieces end with them."""

    closing: tuple[int, ...]
    pausing: tuple[int, ...] = ()

    def at(self, ids: Int[Tensor, " T"]) -> tuple[Bool[Tensor, " T"], Bool[Tensor, " T"]]:
        """(T,) bool twice: where the one and the other stand in a text, as `cut_pieces` takes them."""
        return torch.isin(ids, torch.tensor(self.closing)), torch.isin(
            ids, torch.tensor(self.pausing, dtype=torch.long)
        )


@dataclass(frozen=True)
class Pieces:
    """n stretches of one text, ascending, without overlap.

    start, end  (n,) int64: slots of the first token, and after the last
    """

    start: Int[Tensor, " n"]
    end: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> Int[Tensor, " n"]:
        """(n,) tokens."""
        return self.end - self.start

    def __getitem__(self, index: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Pieces":
        return Pieces(self.start[index], self.end[index])

    def slots(self) -> Int[Tensor, " s"]:
        """(s,) ascending slots of all tokens."""
        lengths = self.lengths
        first = torch.cumsum(lengths, 0) - lengths
        owner = torch.repeat_interleave(torch.arange(len(self)), lengths)
        return torch.arange(len(owner)) - first[owner] + self.start[owner]

    def owners(self, slots: int) -> Int[Tensor, " {slots}"]:
        """(slots,) index of each slot's piece; −1 outside all pieces."""
        owner = torch.full((slots,), -1, dtype=torch.long)
        owner[self.slots()] = torch.repeat_interleave(torch.arange(len(self)), self.lengths)
        return owner


def cut_pieces(
    closes: Bool[Tensor, " T"],
    pauses: Bool[Tensor, " T"],
    starts: Int[Tensor, " m"],
    ends: Int[Tensor, " m"],
    least: int = LEAST,
) -> Pieces:
    """Cut stretches of text into pieces. No piece crosses the border of a stretch.

    Args:
        closes: (T,) bool, True where a sentence ends with the token at that slot.
        pauses: (T,) bool, True where a piece may end if no sentence ends in time, such as after each record of a long line.
        starts, ends: (m,) slots at which the stretches (documents) begin and end, ascending.
        least: tokens of a piece; it has at most twice as many. The rest at the end of a stretch is joined to its last
        piece if both together have no more than that.

    Raises:
        UserError: `least` is below 1.
    """
    if least < 1:
        raise UserError(f"least={least} must be at least 1 token.")
    most = 2 * least
    stops, softer = (np.flatnonzero(marks.numpy()) + 1 for marks in (closes, pauses))
    first: list[int] = []
    last: list[int] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        begun = len(first)
        while start < end:
            # The first sentence end after `least` tokens if it comes before `most`, else the first pause, else the maximum.
            stop = _next(stops, start + least)
            if stop is None or stop > start + most:
                stop = _next(softer, start + least)
            stop = min(end, start + most if stop is None else min(stop, start + most))
            if len(first) > begun and stop == end and end - first[-1] <= most:
                last[-1] = end
            else:
                first.append(start)
                last.append(stop)
            start = stop
    return Pieces(torch.tensor(first, dtype=torch.long), torch.tensor(last, dtype=torch.long))


def _next(stops: Int[np.ndarray, " s"], slot: int) -> int | None:
    """The first of ascending slots that is not before this one."""
    place = np.searchsorted(stops, slot)
    return int(stops[place]) if place < len(stops) else None


def cut_chunks(marks: Marks, ids: Int[Tensor, " T"], chunk_size: int, least: int = LEAST) -> Pieces:
    """Cut a text into pieces, none of which crosses the border of a chunk, so that chunks can be read one after the other.

    Args:
        ids: (T,) its tokens. least: as for `cut_pieces`.
    """
    starts = torch.arange(0, len(ids), chunk_size)
    return cut_pieces(*marks.at(ids), starts, (starts + chunk_size).clamp(max=len(ids)), least)


def piece_size(window: int) -> int:
    """Least tokens of a piece for a model's window, small enough that several pieces fit into a part of it."""
    return max(1, min(LEAST, window // 8))


def choose_pieces(scores: Float[Tensor, " n"], pieces: Pieces, budget: int) -> Int[Tensor, " m"]:
    """Indices of the best pieces that fit into a budget of tokens, ascending, so that they are read in the text's
    order.

    Args:
        scores: (n,) how much each piece matters; −∞: never chosen, even if the budget is not used up.
        budget: most tokens. The best piece is always chosen, and never cut: a budget below its length is refused.

    Raises:
        UserError: the budget is smaller than the best piece.
    """
    budget = at_least_one("budget", budget, "keeps nothing")
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[~scores[order].isneginf()]
    lengths = pieces.lengths[order]
    if len(order) and int(lengths[0]) > budget:
        raise UserError(f"budget={budget} is less than the {int(lengths[0]):,} tokens of one piece: raise it.")
    chosen, spent = [], 0
    for index, length in zip(order.tolist(), lengths.tolist(), strict=True):
        # If a long piece does not fit, the next one may.
        if spent + length <= budget:
            chosen.append(index)
            spent += length
        elif budget - spent < int(pieces.lengths.min()):
            break
    return torch.tensor(sorted(chosen), dtype=torch.long)
