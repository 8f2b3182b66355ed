"""Where a text can be cut: which of its tokens end a paragraph, a sentence or a clause, and where headings begin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# What may stand between the end of a sentence and the next one, and between two items of a list.
_CLOSING = "\"'”’)]»*_`"
_AROUND = _CLOSING + "}{[(«“‘ "
# Most tokens of a heading that no sign begins, and how much longer the line after it has to be. A short line between blank lines
# may as well belong to what stands above it: a password, the last line of a function.
HEADING, LONGER = 16, 3


@dataclass(frozen=True)
class Stops:
    """Where pieces of a text may end, (T,) bool each: with the token at that slot ends a paragraph or a record, a sentence or a
    line, a clause or an item of a list. breaking: a line ends that ends no sentence. heading: the token begins a heading if a
    paragraph ends before it. numeric: numbers are written with the token, a digit or a full stop."""

    parting: Bool[Tensor, " T"]
    closing: Bool[Tensor, " T"]
    pausing: Bool[Tensor, " T"]
    breaking: Bool[Tensor, " T"]
    heading: Bool[Tensor, " T"]
    numeric: Bool[Tensor, " T"]

    def points(self) -> Bool[np.ndarray, " T"]:
        """(T,) where a full stop stands right before a digit: no sentence ends with it."""
        closing, numeric = self.closing.numpy(), self.numeric.numpy()
        return numeric & closing & np.append(numeric & ~closing, False)[1:]

    def headings(self, start: int, end: int) -> Int[np.ndarray, " h"]:
        """(h,) ascending slots between `start` and `end` at which headings begin, after the end of a paragraph: with a token for it,
        or as a short line that ends no sentence, right above a much longer one. One between two others has no text of its own, as
        in a list of contents, and does not count. Nothing outside the two slots is looked at."""
        parting, closing, breaking = (kind[start:end].numpy() for kind in (self.parting, self.closing, self.breaking))
        size, blank = len(breaking), blank_lines(breaking)
        parting = parting | blank
        first = np.flatnonzero(parting[:-1]) + 1
        # Slots after each line; the last entry stands for a line that does not end. Paragraphs end lines too.
        breaks, lines = (np.append(np.flatnonzero(kind) + 1, size) for kind in (breaking, parting | breaking))
        after = breaks[np.searchsorted(breaks, first, side="right")]
        length = after - first
        following = lines[np.searchsorted(lines, after, side="right").clip(max=len(lines) - 1)] - after
        title = (length > 1) & (length <= HEADING) & (following >= LONGER * length)
        title &= ~parting[after - 1] & ~closing[after - 2]
        heading = self.heading[start:end].numpy()[first] | title
        line = lines[np.searchsorted(lines, first, side="right")]
        bare = heading & (parting[line - 1] | blank[line.clip(max=size - 1)])  # the paragraph has no other line
        heading[1:-1] &= ~(bare[:-2] & bare[1:-1] & heading[2:])
        return first[heading] + start


def blank_lines(breaking: Bool[np.ndarray, " T"]) -> Bool[np.ndarray, " T"]:
    """(T,) where a second line breaks off at once: a blank line, for a tokenizer that has no token for it."""
    return breaking & np.append(False, breaking[:-1])[: len(breaking)]


KINDS = tuple(field.name for field in fields(Stops))


@dataclass(frozen=True)
class Marks:
    """Ids of the tokens of each kind of `Stops`."""

    parting: tuple[int, ...] = ()
    closing: tuple[int, ...] = ()
    pausing: tuple[int, ...] = ()
    breaking: tuple[int, ...] = ()
    heading: tuple[int, ...] = ()
    numeric: tuple[int, ...] = ()

    def at(self, ids: Int[Tensor, " T"]) -> Stops:
        """Where they stand in a text."""
        kinds = (torch.tensor(getattr(self, kind), dtype=torch.long) for kind in KINDS)
        return Stops(*(torch.isin(ids, kind) for kind in kinds))


def stops(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Stops:
    """Where pieces of a text (T,) may end: a paragraph ends before a blank line, a record after a line that closes a bracket, a clause
    at a comma or a semicolon, and signs of Markdown begin headings. Ids below 0 end and begin nothing."""

    def ends_part(text: str) -> bool:
        before, line, after = text.partition("\n")
        return "\n" in after or (bool(line) and before.rstrip().rstrip(",;").endswith(("}", "]")))

    def ends_clause(text: str) -> bool:
        return text.rstrip(_AROUND).endswith((",", ";", "，", "；", "、", "،"))

    def breaks_off(text: str) -> bool:
        return "\n" in text and not _closed(text) and not ends_clause(text.rstrip())

    def begins_heading(text: str) -> bool:
        return bool(text) and not text.strip("#")

    def writes_number(text: str) -> bool:
        return text == "." or text.isdecimal()

    kinds = (ends_part, _ends_sentence, ends_clause, breaks_off, begins_heading, writes_number)
    return Stops(*_where(kinds, tokenizer, ids))


def ends_sentence(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
    """(T,) bool: whether a sentence or a line ends with each of the tokens (T,). Ids below 0 are none."""
    return _where([_ends_sentence], tokenizer, ids)[0]


def _ends_sentence(text: str) -> bool:
    return "\n" in text or _closed(text)


def _closed(text: str) -> bool:
    return text.rstrip().rstrip(_CLOSING).endswith((".", "!", "?", "。", "！", "？"))


def _where(
    kinds: Sequence[Callable[[str], bool]], tokenizer: PreTrainedTokenizerBase, ids: Tensor
) -> list[Bool[Tensor, " T"]]:
    """(T,) bool for each kind: whether the text of each of the tokens (T,) is of it."""
    known, inverse = ids.unique(return_inverse=True)
    texts = tokenizer.batch_decode([[max(i, 0)] for i in known.tolist()])
    found = [[i >= 0 and kind(text) for i, text in zip(known.tolist(), texts, strict=True)] for kind in kinds]
    return [torch.tensor(row, dtype=torch.bool)[inverse] for row in found]
