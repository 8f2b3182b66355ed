"""Whether a text seems to answer a question: by how many of its words one piece has, and by how near a sentence encoder finds it.

In a longer text some piece has more of any question by chance, so more is asked of it. Chosen on even ids, with texts that answer
and others (docs/real/choices.md#is-it-in-the-text)."""

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

# What a piece needs in a text of so many pieces, some 8K tokens; so much more with each doubling; and at most.
SHORT = 64
WORDS, WORDS_MORE, WORDS_MOST = 0.3, 0.04, 0.5
# The same where an encoder counts too.
BOTH, BOTH_MORE, BOTH_MOST = 0.35, 0.01, 0.4
# So many pieces of cosine 0 are imagined beside those of a text: the mean of a few says nothing.
IMAGINED = 16


def seems_answered(
    covered: Float[np.ndarray, " n"] | None, free: Bool[np.ndarray, " n"], near: Float[Tensor, " n"] | None = None
) -> bool | None:
    """Whether one of n pieces may answer a question; None for a question of nothing but words such as "what is it".

    Args:
        covered, free: of `TextIndex.covered`; a piece that only quotes the question doesn't answer it.
        near: (n,) cosines of pieces and question by a sentence encoder, if there is one.
    """
    if covered is None:
        return None
    short, more, most = (WORDS, WORDS_MORE, WORDS_MOST) if near is None else (BOTH, BOTH_MORE, BOTH_MOST)
    return share_said(covered, free, near) >= by_length(len(covered), short, more, most, SHORT)


def by_length(pieces: int, least: float, more: float, most: float, short: int) -> float:
    """A share of a question that a text of so many pieces must pass: `least` up to `short` pieces, `more` with each doubling, and `most` at
    the most."""
    return min(least + more * max(0.0, math.log2(pieces / short)), most)


def share_said(
    covered: Float[np.ndarray, " n"], free: Bool[np.ndarray, " n"], near: Float[Tensor, " n"] | None = None
) -> float:
    """How much of a question one of n pieces says, at most 1. Arguments are those of `seems_answered`."""
    if near is None:
        return float(covered[free].max())
    # Cosines count from their mean on: for some encoders all texts are near each other.
    mean = near.sum() / (len(near) + IMAGINED)
    nearer = ((near - mean) / (1 - mean)).numpy()
    return float(((covered + nearer) / 2)[free].max())
