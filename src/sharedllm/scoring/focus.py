"""BM25 of which only the best is kept: what matches a question in part only stays out, although the budget has room.

A text full of facts of one form has many pieces that share most of a question's words, and each of them is a wrong answer.
So every word counts only for the pieces that match the whole question best among those that have it, and what is left with
little in comparison gets −∞, which `context.budget.kept_within` leaves out. Of a question about two things both stay, for
their names are words of their own; of a thing that got several values every one does, for they match alike.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .bm25 import NO_WORD, BM25Score


@dataclass(frozen=True)
class FocusScore(BM25Score):
    """close: a word counts for pieces whose BM25 score is at least this share of the best of those that have the word.
    least: a piece stays if what it is left with is at least this share of the most that any is left with.
    near: where two words of the question stand side by side this few tokens before the end of what stays, the answer is
    likely cut off, and half a piece more stays."""

    name: str = "focus"
    close: float = 0.9
    least: float = 0.25
    near: int = 8

    def _of(self, text: Tensor, asked: list[int]) -> Tensor:
        total = self.total(text, asked)
        left = torch.zeros_like(total)
        for word in self.by_word(text, asked):
            have = total.where(word > 0, 0)
            left += word.where(have >= self.close * have.max(), 0)
        # Of what matches nothing all is alike.
        kept = left.masked_fill(left < self.least * left.max(), -torch.inf)
        return self._with_answers(self.per_token(kept, len(text)), text, asked)

    def _with_answers(self, scores: Tensor, text: Tensor, asked: list[int]) -> Tensor:
        """(Z,) scores of what stays, longer where it ends within what was asked for."""
        stays, half = ~scores.isneginf(), self.piece // 2
        last = torch.nonzero(stays[:-1] & ~stays[1:]).flatten()
        # A pair as one number; the least id is NO_WORD.
        ids, question = text.long() - NO_WORD, torch.tensor(asked, dtype=torch.long) - NO_WORD
        many = int(max(ids.max(), question.max())) + 1
        end = ids[(last[:, None] + torch.arange(1 - self.near, 1)).clamp(min=0)]
        pairs = question[:-1] * many + question[1:]
        cut = last[torch.isin(end[:, :-1] * many + end[:, 1:], pairs).any(1)]
        behind = (cut[:, None] + torch.arange(1, half + 1)).clamp(max=len(text) - 1)
        return scores.scatter_reduce(0, behind.flatten(), scores[cut].repeat_interleave(half), "amax")
