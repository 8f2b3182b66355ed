"""What a token score is, and what several of them share."""

from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from torch.nn.functional import max_pool1d, pad

if TYPE_CHECKING:
    from ...backbone import SharedLLMModel
    from ...memory import ContextMemory


class TokenScore(Protocol):
    """Ranks the tokens of a memory that holds all of them."""

    @property
    def name(self) -> str: ...

    def scores(self, model: "SharedLLMModel", memory: "ContextMemory", query: Tensor, mask: Tensor) -> Tensor:
        """(B, T) how much each token matters; only comparisons within one text count.

        Args:
            query: (B, Q) token ids of the questions. mask: (B, Q) bool, True for real tokens, on the right.
        """
        ...


def spread(scores: Tensor, before: int = 8, after: int = 16, share: float = 0.5) -> Tensor:
    """(B, T) scores of which neighbours get a share: an answer stands beside what was asked for, most often behind it."""
    padded = pad(scores, (after, before), value=-float("inf"))
    near = max_pool1d(padded[:, None], before + after + 1, stride=1)[:, 0]
    lowest = scores.amin(1, keepdim=True)
    return scores.maximum(lowest + share * (near - lowest))
