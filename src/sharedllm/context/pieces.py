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

# Least tokens of a piece. It ends at the first good place after that, and at twice that length in any case.
LEAST = 96
# A section that ends before a heading may be so much shorter.
SECTION = 4
# Most tokens of a heading that no sign begins, and how much longer the line after it has to be. A short line between blank lines
# may as well belong to what stands above it: a password, the last line of a function.
HEADING, LONGER = 16, 3


@dataclass(frozen=True)
class Stops:
    """Where pieces of a text may end, (T,) bool each: with the token at that slot ends a paragraph or a record, a sentence or a
    line, a clause or an item of a list. breaking: a line ends that ends no sentence. heading: the token begins a heading if a
    paragraph ends before it."""

    parting: Bool[Tensor, " T"]
    closing: Bool[Tensor, " T"]
    pausing: Bool[Tensor, " T"]
    breaking: Bool[Tensor, " T"]
    heading: Bool[Tensor, " T"]

    def headings(self, start: int, end: int) -> Int[np.ndarray, " h"]:
        """(h,) ascending slots between `start` and `end` at which headings begin, after the end of a paragraph: with a token for it,
        or as a short line that ends no sentence, right above a much longer one. Nothing outside the two slots is looked at."""
        parting, closing, breaking = (kind[start:end].numpy() for kind in (self.parting, self.closing, self.breaking))
        parting = parting | _blank(breaking)
        first = np.flatnonzero(parting[:-1]) + 1
        # Where the line ends that begins there, and the line after it; the last entry stands for no end.
        stop = np.append(np.flatnonzero(breaking) + 1, len(breaking))
        line = np.searchsorted(stop, first, side="right").clip(max=len(stop) - 1)
        text = stop[line]
        short = (text - first > 1) & (text - first <= HEADING) & ~parting[text - 1] & ~closing[text - 2]
        lines = np.append(np.flatnonzero(parting | breaking) + 1, len(breaking))
        after = lines[np.searchsorted(lines, text, side="right").clip(max=len(lines) - 1)] - text
        return first[self.heading[start:end].numpy()[first] | (short & (after >= LONGER * (text - first)))] + start


def _blank(breaking: Bool[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """(T,) where a second line breaks off at once: a blank line, for a tokenizer that has no token for it."""
    return breaking & np.append(False, breaking[:-1])[: len(breaking)]


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens of each kind of `Stops`."""

    parting: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    pausing: tuple[int, ...] = ()
    breaking: tuple[int, ...] = ()
    heading: tuple[int, ...] = ()

    def at(self, ids: Int[Tensor, " T"]) -> Stops:
        """Where they stand in a text."""
        kinds = (self.parting, self.closing, self.pausing, self.breaking, self.heading)
        return Stops(*(torch.isin(ids, torch.tensor(kind, dtype=torch.long)) for kind in kinds))


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
    blank = _blank(stops.breaking.numpy())
    blank[starts[starts < len(blank)].numpy()] = False
    kinds = (stops.parting.numpy() | blank, stops.closing.numpy(), stops.pausing.numpy())
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
