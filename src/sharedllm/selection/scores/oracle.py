"""Knows where the answer stands: the ceiling of what selection can bring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel
    from ...memory import ContextMemory


@dataclass(frozen=True)
class OracleScore:
    """spans: of each text the (start, end) that matter."""

    spans: Sequence[Sequence[tuple[int, int]]]
    name: str = "oracle"

    def scores(self, model: "SharedLLMModel", memory: "ContextMemory", query: Tensor, mask: Tensor) -> Tensor:
        scores = torch.zeros(memory.mask.shape)
        for row, spans in enumerate(self.spans):
            for start, end in spans:
                scores[row, start:end] = 1.0
        return scores
