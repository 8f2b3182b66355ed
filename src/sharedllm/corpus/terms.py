"""The words of documents, counted: an index that ranks documents by BM25 and can be joined with others.

Words are those of `scoring.words`, as 64-bit numbers. The scores are Lucene's, as of bm25s, but over counts: bm25s makes an index
from the tokens of all texts at once, which no machine can hold for a large corpus.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..scoring.words import terms_of, words_of

K1, B = 1.5, 0.75


def counted(pieces: Iterable[str]) -> Counter[str]:
    """How often each term occurs in a text, given in pieces that are cut between words."""
    found: Counter[str] = Counter()
    for piece in pieces:
        found.update(terms_of(words_of(piece)))
    return found


def hashed(term: str) -> int:
    """A term as a signed 64-bit number; that two of a million differ only by chance has a probability of 10⁻⁷."""
    return int.from_bytes(
        hashlib.blake2b(term.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True
    )


@dataclass(frozen=True)
class Terms:
    """Of n documents with m distinct terms in p places:

    terms      (m,) int64, ascending
    starts     (m + 1,) int64: the places of term i are starts[i] … starts[i + 1] − 1
    documents  (p,) int32, ascending within a term. counts: (p,) int32
    lengths    (n,) int64, terms of each document
    """

    terms: np.ndarray
    starts: np.ndarray
    documents: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Counter[str]]) -> "Terms":
        """
        Args:
            texts: the counted terms of each document.
        """
        terms = np.array([hashed(term) for text in texts for term in text], dtype=np.int64)
        documents = np.repeat(np.arange(len(texts), dtype=np.int32), [len(text) for text in texts])
        counts = np.array([count for text in texts for count in text.values()], dtype=np.int32)
        lengths = np.array([text.total() for text in texts], dtype=np.int64)
        return cls._sorted(terms, documents, counts, lengths)

    @classmethod
    def joined(cls, parts: Sequence["Terms"]) -> "Terms":
        """One index of the documents of several, in their order."""
        before = np.cumsum([0, *(len(part.lengths) for part in parts)])
        terms = [np.repeat(part.terms, np.diff(part.starts)) for part in parts]
        documents = [part.documents + np.int32(first) for part, first in zip(parts, before, strict=False)]
        return cls._sorted(
            _cat(terms, np.int64),
            _cat(documents, np.int32),
            _cat([part.counts for part in parts], np.int32),
            _cat([part.lengths for part in parts], np.int64),
        )

    @classmethod
    def _sorted(cls, terms: np.ndarray, documents: np.ndarray, counts: np.ndarray, lengths: np.ndarray) -> "Terms":
        order = np.lexsort((documents, terms))
        distinct, first = np.unique(terms[order], return_index=True)
        starts = np.append(first, len(terms)).astype(np.int64)
        return cls(distinct, starts, documents[order], counts[order], lengths)

    def scores(self, question: str) -> Float[Tensor, " n"]:
        """(n,) BM25 of each document for a question; 0 for one with none of its words."""
        total, many = np.zeros(len(self.lengths)), len(self.lengths)
        norm = K1 * (1 - B + B * self.lengths / max(self.lengths.mean(), 1e-9)) if many else total
        for term in dict.fromkeys(terms_of(dict.fromkeys(words_of(question)))):
            number = hashed(term)
            place = int(np.searchsorted(self.terms, number))
            if place == len(self.terms) or self.terms[place] != number:
                continue
            here = slice(int(self.starts[place]), int(self.starts[place + 1]))
            having, counts = self.documents[here], self.counts[here]
            rarity = np.log(1 + (many - len(having) + 0.5) / (len(having) + 0.5))
            total[having] += rarity * counts / (counts + norm[having])
        return torch.from_numpy(total.astype(np.float32))

    def tensors(self) -> dict[str, Tensor]:
        return {f"words.{f.name}": torch.from_numpy(np.ascontiguousarray(getattr(self, f.name))) for f in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Terms":
        return cls(*(tensors[f"words.{f.name}"].numpy() for f in fields(cls)))


def _cat(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)
