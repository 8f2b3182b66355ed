"""Pieces that the best piece of a question leads to. A question may name one thing and ask for what is told of it elsewhere: "In
which year was the director of The Harrow Mill born?" A piece says who directed it, and another one, which shares the
director's name with it, in which year he was born (bridge questions: Yang et al., arXiv 1809.09600)."""

import math

import numpy as np
from jaxtyping import Float, Int

from .words import WordIndex, names_of, words_of

# A name counts if so few pieces have it, however long the text: with a share of the pieces a million tokens have too many such names.
FEW = 8
# How much the names that two pieces share have to say, in units of the logarithm of the number of pieces, which is a little more
# than a name says that only these two have; and how much of the question the second piece has to add to the first. Chosen on
# even ids (docs/real/choose_links.py).
LEAST_NAMES, LEAST_ADDED = 0.8, 0.1
FOLLOWED = 2


def shared_names(index: WordIndex, text: str, question: str, best: int) -> Float[np.ndarray, " n"]:
    """(n,) how much the names say that each piece shares with the best one: the sum of their idf, divided by log n. Names in
    the question don't count, nor those that many pieces have.

    Args:
        index: of n pieces. text: of the best one.
    """
    shared, asked = np.zeros(len(index)), set(words_of(question))
    for name in names_of(text):
        holding = index.holding(name)
        if name not in asked and 2 <= len(holding) <= FEW:
            shared[holding] += index.idf(len(holding))
    shared[best] = 0.0
    return shared / math.log(max(len(index), 2))


def linked(index: WordIndex, text: str, question: str, best: int) -> Int[np.ndarray, " m"]:
    """(m,) the pieces that the best one leads to, at most `FOLLOWED`, those with the most to share first: they share rare
    names with it, and have words of the question that it lacks. Arguments are those of `shared_names`."""
    added = index.covered(question, beyond=best)
    if added is None:
        return np.zeros(0, dtype=np.int64)
    shared = shared_names(index, text, question, best)
    shared[(shared < LEAST_NAMES) | (added < LEAST_ADDED)] = 0.0
    order = np.argsort(-shared, kind="stable")[:FOLLOWED]
    return order[shared[order] > 0]
