"""How much each token of a memory matters to a question. One way a file, all behind `TokenScore`."""

from ..model.config import SharedLLMConfig
from .attention import AttentionScore
from .base import TokenScore
from .bm25 import BM25Score
from .cosine import CosineScore
from .focus import FocusScore
from .hybrid import HybridScore
from .oracle import OracleScore

SCORES: dict[str, TokenScore] = {
    score.name: score
    for score in (
        AttentionScore(),
        BM25Score(),
        FocusScore(),
        HybridScore("hybrid", (AttentionScore(), BM25Score())),
        CosineScore(),
    )
}


def get_score(score: str | TokenScore, config: SharedLLMConfig | None = None) -> TokenScore:
    """A score by name; an object that is one already is returned as it is.

    Args:
        config: of the model that it is for.

    Raises:
        ValueError: no score of that name; lists those there are. Or one that the model can't give.
    """
    if isinstance(score, str):
        if score not in SCORES:
            raise ValueError(f"score={score!r} is not known: use one of {', '.join(sorted(SCORES))}.")
        score = SCORES[score]
    if config is not None and score.needs_joint and config.injection != "joint":
        raise ValueError(f"score={score.name!r} needs a model with injection='joint': use score='focus' or 'bm25'.")
    return score


__all__ = [
    "SCORES",
    "AttentionScore",
    "BM25Score",
    "CosineScore",
    "FocusScore",
    "HybridScore",
    "OracleScore",
    "TokenScore",
    "get_score",
]
