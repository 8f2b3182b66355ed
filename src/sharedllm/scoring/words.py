"""BM25 over the words of pieces (Robertson and Zaragoza, 2009), by the library bm25s.

Words, not tokens: a token that begins two words ("town7" and "town70") would match both. An index is made once for a text
and serves all questions about it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import bm25s
import numpy as np
import torch
from torch import Tensor

_WORD = re.compile(r"\w+")
# Words that carry a question's form and not what it is about.
_FORM = frozenset(
    "a an and are as at be by did do does for from had has have he her his how i in is it its of on or she that the "
    "their there they this to was were what when where which who whom whose why will with you your".split()
)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without those that only carry a sentence's form."""
    return [word for word in _WORD.findall(text.casefold()) if word not in _FORM]


class WordIndex:
    """Pieces of a text by their words."""

    def __init__(self, texts: Sequence[str]):
        """
        Args:
            texts: n pieces, at least one.
        """
        self._pieces = len(texts)
        found = [words_of(text) for text in texts]
        self._index = None
        if any(found):
            self._index = bm25s.BM25(method="lucene")
            self._index.index(found, show_progress=False)

    def scores(self, question: str) -> Tensor:
        """(n,) BM25 of each piece for the words of a question; 0 where none of them stands."""
        if self._index is None:
            return torch.zeros(self._pieces)
        known = [word for word in _distinct(question) if word in self._index.vocab_dict]
        if not known:
            return torch.zeros(self._pieces)
        return torch.from_numpy(np.asarray(self._index.get_scores(known), dtype=np.float32))


@lru_cache(maxsize=256)
def _distinct(question: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words_of(question)))
