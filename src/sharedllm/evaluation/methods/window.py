"""The window alone: the base, which does not see the far context. The floor of every table."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from .base import Scores, scores_of


@dataclass(frozen=True)
class Window:
    model: PreTrainedModel
    running: int
    name: str = "window"

    def prepare(self, far: Tensor, query: Tensor) -> None:
        return None

    def score(self, state: None, running: Tensor, targets: int) -> Scores:
        return scores_of(self.model(running, logits_to_keep=targets + 1, use_cache=False).logits, running, targets)
