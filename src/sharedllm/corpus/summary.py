"""A small summary of the keys that a model's selection heads (`scoring.heads`) look at, for ranking whole documents.

A document is cut into at most `STRETCHES` equal stretches; of each, the mean key of every head's group is kept. The share of
attention that a stretch of n tokens gets is at least n · exp(q · mean), because the exponential is convex (Jensen), so
documents are ranked by a lower bound of what `HeadIndex.scores` would give them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..context.pieces import Pieces
from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..scoring.heads import HeadIndex, attended

STRETCHES = 16


@dataclass(frozen=True)
class KeySummary:
    """Of n documents, in m stretches:

    keys    (m, groups, D) float16, the mean keys of each group of `HeadIndex.groups`
    tokens  (m,) int32. owner: (m,) int32, the document of each stretch, ascending
    """

    keys: Tensor
    tokens: Tensor
    owner: Tensor

    @classmethod
    def of(cls, model: SharedLLMModel, documents: Sequence[Sequence[Segment]]) -> "KeySummary | None":
        """
        Args:
            documents: the segments of each document, the first beginning at slot 0.

        Returns:
            None for a model without selection heads.
        """
        heads = model.config.selection_heads
        if not heads:
            return None
        found = [_means(model, segments, heads) for segments in documents]
        owner = torch.repeat_interleave(
            torch.arange(len(found)), torch.tensor([len(n) for _, n in found], dtype=torch.long)
        )
        keys, tokens = (torch.cat(parts) for parts in zip(*found, strict=True))
        return cls(keys.half(), tokens.int(), owner.int())

    @classmethod
    def joined(cls, parts: Sequence["KeySummary"], documents: Sequence[int]) -> "KeySummary":
        """One summary of the documents of several, in their order. documents: how many each has."""
        before = np.cumsum([0, *documents]).tolist()
        return cls(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.owner + first for part, first in zip(parts, before, strict=False)]),
        )

    def scores(
        self, model: SharedLLMModel, question_ids: Int[Tensor, "1 Q"], own: Bool[Tensor, "1 Q"]
    ) -> Float[Tensor, " n"]:
        """(n,) how much the heads attend to each document, at least. Arguments are those of `HeadIndex.scores`."""
        starts = torch.nonzero(self.owner.diff(prepend=self.owner.new_full((1,), -1))).flatten()
        return attended(model, model.config.selection_heads or (), question_ids, own, self.keys, self.tokens, starts)

    def tensors(self) -> dict[str, Tensor]:
        return {f"keys.{name}": tensor.contiguous() for name, tensor in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "KeySummary | None":
        if "keys.keys" not in tensors:
            return None
        return cls(*(tensors[f"keys.{name}"] for name in ("keys", "tokens", "owner")))


def _means(model: SharedLLMModel, segments: Sequence[Segment], heads: Sequence) -> tuple[Tensor, Tensor]:
    """(stretches, groups, D) and their numbers of tokens."""
    first, end = segments[0].start, max(segment.end for segment in segments)
    borders = torch.linspace(first, end, min(STRETCHES, end - first) + 1).round().long()
    cut = Pieces(borders[:-1], borders[1:])
    return HeadIndex(model, segments, cut, heads).means(), cut.lengths
