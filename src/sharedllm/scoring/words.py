"""BM25 over the words of pieces (Robertson and Zaragoza, 2009), using the library bm25s.

It uses words, not tokens, because a token that begins two words ("town7" and "town70") would match both. Each word is
also indexed by its first five letters, so that "travelled" finds "travels"; the identical word still scores higher. For
European languages truncation works about as well as a stemmer for the language (McNamee and Mayfield, 2004). An index
is made once per text and serves all questions about it.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import regex
import torch
from jaxtyping import Float
from torch import Tensor

from ..utils.bm25 import BM25

# A letter with + or # after it is a name of its own (C++, C#, F#); longer words are not (count++).
_WORD = regex.compile(r"(?<![\p{L}\p{N}\p{M}])[\p{Latin}](?:\+{1,2}|#)(?![\p{L}\p{N}\p{M}+#])|[\p{L}\p{N}\p{M}]+")
# What stands between two words, and what makes a question of them.
_BETWEEN = r"[^\p{L}\p{N}\p{M}]+"
_ASKED = r"[^\p{L}\p{N}\p{M}\n]*?[?？؟]"
# What may stand before a question that is a heading, an item of a list, or "Q:".
_HEADING = regex.compile(r"[\s#>*_•\-–—.):(\]\[\d]*(?:q(?:uestion)?[\s\d]*[:.)])?[\s*_]*")
# Scripts that are written without spaces: their words count by pairs of characters.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_RUNS = regex.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
# Letters by which words are found in another form.
BEGINNING = 5
# In a short text every word occurs in most pieces and is still informative.
_LEAST_IDF = 2.0
# Words that carry a question's form, not its subject.
_FORM = frozenset(
    "a an and are as at be by did do does for from had has have he her his how i in is it its of on or she that the "
    "their there they this to was were what when where which who whom whose why will with you your".split()
)


def said(text: str) -> list[str]:
    """All words of a text in their order, in lower case."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def quotes(text: str, question: str) -> bool:
    """Whether a text repeats a question word for word, with its question mark, without more of it right below. A heading, or a line of
    its own, that more text follows is no quotation: the answer stands there. Nor are a question's words in a statement. A single word
    is no question to repeat: it ends many."""
    words = said(question)
    if len(words) < 2:
        return False
    plain = unicodedata.normalize("NFKC", text).casefold()
    asked = _BETWEEN.join(map(regex.escape, words))
    found = list(regex.finditer(rf"(?<![\p{{L}}\p{{N}}\p{{M}}]){asked}{_ASKED}", plain))
    return bool(found) and not any(_answered(plain, match.start(), match.end()) for match in found)


def _answered(text: str, start: int, end: int) -> bool:
    """Whether a question in a text begins a line and more words follow it."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return _HEADING.fullmatch(before) is not None and regex.search(r"[\p{L}\p{N}]", text[end:]) is not None


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without stop words."""
    found: list[str] = []
    for word in said(text):
        for run in _RUNS.finditer(word):
            part = run[0]
            found += [part[i : i + 2] for i in range(max(1, len(part) - 1))] if run[1] else [part]
    return [word for word in found if word not in _FORM]


def names_of(text: str) -> list[str]:
    """The distinct words, in lower case, that are written like names: they begin with a capital letter or a digit."""
    found = _WORD.findall(unicodedata.normalize("NFKC", text))
    names = [word for written in found if written[0].isupper() or written[0].isdigit() for word in words_of(written)]
    return list(dict.fromkeys(names))


def terms_of(words: Iterable[str]) -> list[str]:
    """The counted terms: words and their beginnings. Names with digits have no separate beginning."""
    words = list(words)
    return words + ["~" + (word[:BEGINNING] if word.isalpha() else word) for word in words]


class WordIndex:
    """A BM25 index over the pieces of a text."""

    def __init__(self, texts: Sequence[str]):
        """
        Args:
            texts: n pieces, at least one.
        """
        self._pieces = len(texts)
        found = [terms_of(words_of(text)) for text in texts]
        self._index = None
        if any(found):
            self._index = BM25(method="lucene")
            self._index.index(found, show_progress=False)

    def __len__(self) -> int:
        return self._pieces

    def scores(self, question: str) -> Float[Tensor, " n"]:
        """(n,) BM25 score of each piece for the words of a question; 0 for a piece with none of them."""
        if self._index is None:
            return torch.zeros(self._pieces)
        known = [word for word in asked_terms(question) if word in self._index.vocab_dict]
        if not known:
            return torch.zeros(self._pieces)
        return torch.from_numpy(np.asarray(self._index.get_scores(known), dtype=np.float32))

    def covered(self, question: str, beyond: int | None = None) -> Float[np.ndarray, " n"] | None:
        """(n,) how much of a question each piece contains: the share of its words, weighted by idf and compared by their
        beginnings. None for a question without words, of which nothing can be said.

        beyond: a piece; only words that it lacks are counted, as shares of all.
        """
        terms = [term for term in asked_terms(question) if term.startswith("~")]
        if not terms:
            return None
        covered, total = np.zeros(self._pieces), 0.0
        for term in dict.fromkeys(terms):
            # A short word and its form in -s have different beginnings.
            forms = {term, term + "s", term.removesuffix("s")} if len(term) <= BEGINNING + 1 else {term}
            holding = np.unique(np.concatenate([self.holding(form) for form in forms]))
            weight = max(_LEAST_IDF, self.idf(len(holding)))
            total += weight
            if beyond is None or beyond not in holding:
                covered[holding] += weight
        return covered / total

    def idf(self, holding: int) -> float:
        """How much a word says that so many pieces contain."""
        return math.log(1 + (self._pieces - holding + 0.5) / (holding + 0.5))

    def holding(self, term: str) -> np.ndarray:
        """Indices of the pieces that contain a term of `terms_of`."""
        if self._index is None or term not in self._index.vocab_dict:
            return np.zeros(0, dtype=np.int64)
        column, borders = self._index.vocab_dict[term], self._index.scores["indptr"]
        return self._index.scores["indices"][borders[column] : borders[column + 1]]


@lru_cache(maxsize=256)
def asked_terms(question: str) -> tuple[str, ...]:
    """The distinct terms of a question."""
    return tuple(dict.fromkeys(terms_of(dict.fromkeys(words_of(question)))))
