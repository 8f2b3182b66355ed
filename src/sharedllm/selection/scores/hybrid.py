"""Several scores by reciprocal rank fusion (Cormack et al., 2009)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .base import TokenScore

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel
    from ...memory import ContextMemory


@dataclass(frozen=True)
class HybridScore:
    """Σ 1 / (60 + rank) over the members."""

    name: str
    members: tuple[TokenScore, ...]

    def scores(self, model: "SharedLLMModel", memory: "ContextMemory", query: Tensor, mask: Tensor) -> Tensor:
        total = torch.zeros(memory.mask.shape)
        for member in self.members:
            scores = member.scores(model, memory, query, mask)
            # Equal scores share a rank, or their order in the text would count.
            for row in range(len(scores)):
                values, inverse = scores[row].unique(return_inverse=True)
                total[row] += 1.0 / (60 + len(values) - 1 - inverse)
        return total
