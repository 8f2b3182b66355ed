"""A score that knows where the answer is and keeps nothing else: the upper bound for selection."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from .base import extent


@dataclass(frozen=True)
class OracleScore:
    """spans: for each text the (start, end) that matter, in slots."""

    spans: Sequence[Sequence[tuple[int, int]]]
    name: str = "oracle"
    needs_joint: bool = False

    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        scores = torch.full((len(query), extent(segments)), -torch.inf)
        for row, spans in enumerate(self.spans):
            for start, end in spans:
                scores[row, start:end] = 1.0
        return scores
