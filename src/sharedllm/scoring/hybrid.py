"""Several scores combined by reciprocal rank fusion (Cormack et al., 2009)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from .attention import AttentionScore
from .base import TokenScore
from .bm25 import BM25Score, in_whole_words


@dataclass(frozen=True)
class HybridScore:
    """Σ 1 / (60 + rank) over the members."""

    name: str = "hybrid"
    members: tuple[TokenScore, ...] = (AttentionScore(), BM25Score())

    def in_whole_words(self, tokenizer: PreTrainedTokenizerBase) -> "HybridScore":
        """The same score, with members that match whole words of the tokenizer."""
        return replace(self, members=tuple(in_whole_words(member, tokenizer) for member in self.members))

    @property
    def needs_joint(self) -> bool:
        return any(member.needs_joint for member in self.members)

    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        return self.fused([member.scores(model, segments, query, mask, words) for member in self.members])

    @staticmethod
    def fused(members: Sequence[Float[Tensor, "B Z"]]) -> Float[Tensor, "B Z"]:
        """Combine several scores (B, Z) into one."""
        total = torch.zeros_like(members[0])
        for scores in members:
            # Equal scores share a rank; otherwise their order in the text would matter.
            for row in range(len(scores)):
                values, inverse = scores[row].unique(return_inverse=True)
                total[row] += 1.0 / (60 + len(values) - 1 - inverse)
        return total
