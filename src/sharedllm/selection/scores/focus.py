"""BM25 of which only the best is kept: what matches a question in part only stays out, although the budget has room.

A text full of facts of one form has many pieces that share most of a question's words, and each of them is a wrong answer.
So every word counts only for the pieces that match the whole question best among those that have it, and what is left with
little in comparison gets −∞, which `forest.kept_within` does not keep fine. Of a question about two things both stay, for
their names are words of their own; of a thing that got several values every one does, for they match alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .bm25 import BM25Score


@dataclass(frozen=True)
class FocusScore(BM25Score):
    """close: a word counts for pieces whose BM25 score is at least this share of the best of those that have the word.
    least: a piece stays if what it is left with is at least this share of the most that any is left with."""

    name: str = "focus"
    close: float = 0.9
    least: float = 0.25

    def _of(self, text: Tensor, asked: list[int]) -> Tensor:
        total = self.total(text, asked)
        left = torch.zeros_like(total)
        for word in self.by_word(text, asked):
            have = total.where(word > 0, 0)
            left += word.where(have >= self.close * have.max(), 0)
        # Of what matches nothing all is alike.
        kept = left.masked_fill(left < self.least * left.max(), -torch.inf)
        return self.per_token(kept, len(text))
