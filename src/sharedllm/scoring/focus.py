"""BM25 that keeps only the best pieces: partial matches are dropped even if the budget is not used up.

In a text full of similar facts many pieces share most of a question's words, and each of them is a wrong answer. So
every word counts only for those of its pieces that match the whole question best, and pieces whose remaining score is
comparatively low get −∞, which `context.budget.kept_within` leaves out. If a question asks about two things, both stay,
because their names are different words; if a thing has several values, all stay, because they match equally well.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .bm25 import NO_WORD, BM25Score


@dataclass(frozen=True)
class FocusScore(BM25Score):
    """close: also, a word counts for pieces whose BM25 score is at least this share of the best of those that have the word.
    least: also, a piece stays if its remaining score is at least this share of the highest remaining score.
    near: if two adjacent words of the question occur within this many tokens of the end of a kept stretch, the answer
    is probably cut off, and another half piece stays."""

    name: str = "focus"
    near: int = 8

    def _of(self, text: Int[Tensor, " Z"], asked: list[int]) -> Float[Tensor, " Z"]:
        text, total = self.unquoted(text, asked)
        left = torch.zeros_like(total)
        for word in self.by_word(text, asked):
            have = total.where(word > 0, 0)
            left += word.where(have >= self.close * have.max(), 0)
        # If no word matches, all pieces have 0 and none is dropped.
        kept = left.masked_fill(left < self.least * left.max(), -torch.inf)
        return self._with_answers(self.per_token(kept, len(text)), text, asked)

    def _with_answers(
        self, scores: Float[Tensor, " Z"], text: Int[Tensor, " Z"], asked: list[int]
    ) -> Float[Tensor, " Z"]:
        """(Z,) scores in which kept stretches that end within the question's words are extended."""
        stays, half = ~scores.isneginf(), self.piece // 2
        last = torch.nonzero(stays[:-1] & ~stays[1:]).flatten()
        # Encode a pair as one number; the smallest id is NO_WORD.
        ids, question = text.long() - NO_WORD, torch.tensor(asked, dtype=torch.long) - NO_WORD
        many = int(max(ids.max(), question.max())) + 1
        end = ids[(last[:, None] + torch.arange(1 - self.near, 1)).clamp(min=0)]
        pairs = question[:-1] * many + question[1:]
        cut = last[torch.isin(end[:, :-1] * many + end[:, 1:], pairs).any(1)]
        behind = (cut[:, None] + torch.arange(1, half + 1)).clamp(max=len(text) - 1)
        return scores.scatter_reduce(0, behind.flatten(), scores[cut].repeat_interleave(half), "amax")
