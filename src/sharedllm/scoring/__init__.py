"""How much each token of a memory matters to a question. A score is one file and one line here (see `base`); which is the default,
`defaults` says."""

from ..utils.registry import Registry
from .defaults import BUDGET, CHAT_SCORES, DEFAULT_SCORE

SCORES = Registry("score={}")
SCORES.add("attention", f"{__name__}.attention:AttentionScore", "how much the question attends to each token")
SCORES.add("bm25", f"{__name__}.bm25:BM25Score", "the question's words, by BM25")
SCORES.add("cosine", f"{__name__}.cosine:CosineScore", "the paper's: cosine between states after one layer")
SCORES.add("focus", f"{__name__}.focus:FocusScore", "BM25, keeping only the best places")
SCORES.add("hybrid", f"{__name__}.hybrid:HybridScore", "attention and BM25, combined by rank")

__all__ = ["BUDGET", "CHAT_SCORES", "DEFAULT_SCORE", "SCORES"]
