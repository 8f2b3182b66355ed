"""Pieces: stretches of text that are selected whole, and read alone. Each ends before a heading, or with a paragraph or a record
if there is an end in time, else with a sentence or a line, else with a clause or an item of a list.

Pure functions over slots. Scores rank pieces and the deeper layers read them, so a piece has to be large enough to hold
a fact with its context, and small enough that a budget holds several.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..utils.errors import UserError, at_least_one
from .stops import Marks, Stops, blank_lines

# The version of the rule by which texts are cut. A memory read by one can't be asked or continued by another: raise it with every
# change of where pieces end.
RULE = 1
# Least tokens of a piece. It ends at the first good place after that, and at twice that length in any case.
LEAST = 96
# A section may have so many times fewer: what stands between two headings belongs together.
SECTION = 4


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


def cut_pieces(stops: Stops, starts: Int[Tensor, " m"], ends: Int[Tensor, " m"], least: int = LEAST) -> Pieces:
    """Cut stretches of text into pieces. No piece crosses the border of a stretch, or the beginning of a section.

    Args:
        stops: of the whole text. A place of a later kind counts where there is none of an earlier kind in time.
        starts, ends: (m,) slots at which the stretches (documents) begin and end, ascending.
        least: tokens of a piece; it has at most twice as many. The rest at the end of a section is joined to its last
            piece if both together have no more than that.

    Raises:
        UserError: `least` is below 1.
    """
    if least < 1:
        raise UserError(f"least={least} must be at least 1 token.")
    most = 2 * least
    blank = blank_lines(stops.breaking.numpy())
    blank[starts[starts < len(blank)].numpy()] = False
    kinds = (stops.parting.numpy() | blank, stops.closing.numpy() & ~stops.points(), stops.pausing.numpy())
    places = [np.flatnonzero(kind) + 1 for kind in kinds]
    first: list[int] = []
    last: list[int] = []
    for start, end in _sections(stops, starts.tolist(), ends.tolist(), max(1, least // SECTION)):
        begun = len(first)
        while start < end:
            following = (int(kind[at]) for kind in places if (at := np.searchsorted(kind, start + least)) < len(kind))
            stop = min(end, next((stop for stop in following if stop <= start + most), start + most))
            if len(first) > begun and stop == end and end - first[-1] <= most:
                last[-1] = end
            else:
                first.append(start)
                last.append(stop)
            start = stop
    return Pieces(torch.tensor(first, dtype=torch.long), torch.tensor(last, dtype=torch.long))


def _sections(stops: Stops, starts: list[int], ends: list[int], shortest: int) -> Iterator[tuple[int, int]]:
    """Where the sections of stretches begin and end: each begins with the stretch or a heading, and has at least `shortest` tokens
    if the stretch has."""
    for start, end in zip(starts, ends, strict=True):
        for heading in stops.headings(start, end).tolist():
            if heading - start >= shortest and end - heading >= shortest:
                yield start, heading
                start = heading
        yield start, end


def cut_chunks(marks: Marks, ids: Int[Tensor, " T"], chunk_size: int, least: int = LEAST) -> Pieces:
    """Cut a text into pieces, none of which crosses the border of a chunk, so that chunks can be read one after the other.

    Args:
        ids: (T,) its tokens. least: as for `cut_pieces`.
    """
    starts = torch.arange(0, len(ids), chunk_size)
    return cut_pieces(marks.at(ids), starts, (starts + chunk_size).clamp(max=len(ids)), least)


def piece_size(window: int) -> int:
    """Least tokens of a piece for a model's window, small enough that several pieces fit into a part of it."""
    return max(1, min(LEAST, window // 8))


def check_budget(budget: int, pieces: Pieces) -> int:
    """A budget of tokens that holds any of the pieces, so that it depends on no question, and is known before one is asked,
    whether it is enough.

    Raises:
        UserError: it is smaller than the longest piece.
    """
    budget = at_least_one("budget", budget, "keeps nothing")
    longest = int(pieces.lengths.max()) if len(pieces) else 0
    if longest > budget:
        raise UserError(
            f"budget={budget} is less than the {longest:,} tokens of the longest piece: give at least {longest}."
        )
    return budget


def choose_pieces(scores: Float[Tensor, " n"], pieces: Pieces, budget: int) -> Int[Tensor, " m"]:
    """Indices of the best pieces that fit into a budget of tokens, ascending, so that they are read in the text's
    order.

    Args:
        scores: (n,) how much each piece matters; −∞: never chosen, even if the budget is not used up.
        budget: most tokens (see `check_budget`). Pieces are never cut.

    Raises:
        UserError: the budget is smaller than the longest piece.
    """
    budget = check_budget(budget, pieces)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[~scores[order].isneginf()]
    lengths = pieces.lengths[order]
    chosen, spent = [], 0
    for index, length in zip(order.tolist(), lengths.tolist(), strict=True):
        # If a long piece does not fit, the next one may.
        if spent + length <= budget:
            chosen.append(index)
            spent += length
        elif budget - spent < int(pieces.lengths.min()):
            break
    return torch.tensor(sorted(chosen), dtype=torch.long)
