"""The interface of token scores, and helpers that several of them share."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..model.config import SharedLLMConfig
from ..utils.errors import UserError
from . import SCORES


class TokenScore(Protocol):
    """Ranks the tokens of memories that hold every token."""

    @property
    def name(self) -> str: ...

    @property
    def needs_joint(self) -> bool:
        """Whether it needs a model with injection='joint'."""
        ...

    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        """(B, Z) how much the token at each slot matters; only comparisons within one text count.

        Args:
            query: (B, Q) token ids of the questions. mask: (B, Q) bool, True for real tokens, on the right.
            words: (B, Q) bool, True for the question's own words, False for the form that all questions share; default:
                all True. Lexical scores use these tokens alone.
        """
        ...


def get_score(score: str | TokenScore, config: SharedLLMConfig | None = None) -> TokenScore:
    """A score by name; a score object is returned as it is.

    Args:
        config: configuration of the model that will use it.

    Raises:
        UserError: no score of that name; lists the known ones. Or the model does not support it.
    """
    found: TokenScore = SCORES.find(score) if isinstance(score, str) else score
    if not hasattr(found, "scores"):
        raise UserError(f"score={score!r} is no score: use one of {SCORES.names}, or an object with a method scores.")
    if config is not None and found.needs_joint and config.injection != "joint":
        raise UserError(
            f"score={found.name!r} needs a model with injection='joint': use score='focus' or score='bm25'."
        )
    return found


def extent(segments: Sequence[Segment]) -> int:
    """Z, the number of slots from the first segment's first token up to the end of the last segment."""
    return max((segment.end for segment in segments), default=0)


def token_ids(segments: Sequence[Segment], row: int) -> Int[Tensor, " Z"]:
    """(Z,) int32 ids of a text by slot; −1 where there is no token."""
    ids = torch.full((extent(segments),), -1, dtype=torch.int32)
    for segment in segments:
        length = int(segment.lengths[row])
        ids[segment.start : segment.start + length] = segment.token_ids[row, :length].cpu()
    return ids


def spread(scores: Float[Tensor, "B Z"], before: int = 8, after: int = 16, share: float = 0.5) -> Float[Tensor, "B Z"]:
    """Give neighbours a share of the scores (B, Z): an answer is near the words of the question, usually after them."""
    padded = pad(scores, (after, before), value=-float("inf"))
    near = max_pool1d(padded[:, None], before + after + 1, stride=1)[:, 0]
    lowest = scores.amin(1, keepdim=True)
    return scores.maximum(lowest + share * (near - lowest))
