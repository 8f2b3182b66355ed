"""The sentences of a text's pieces, embedded by a sentence encoder, to be compared with questions."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..memory.segment import Stored
from .encoder import SentenceEncoder
from .meaning import Compared

# Sentences that are compared at once.
_BLOCK = 65_536
# The end of a sentence or a line.
ENDS = re.compile(r"[.!?][\"'”’)]*(?=\s)|\n")


def cut_sentences(pieces: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """The sentences of n pieces of a text, at least one of each, and where those of each begin (n,)."""
    found = [[s for s in ENDS.sub("\\g<0>\0", piece).split("\0") if s.strip()] or [piece] for piece in pieces]
    begin = np.cumsum([0, *(len(some) for some in found)])[:-1]
    return [sentence for some in found for sentence in some], begin


def embedded(encoder: SentenceEncoder, pieces: Sequence[str]) -> Stored:
    """All sentences of some pieces, to be kept with the text."""
    return Stored(encoder.fingerprint, encoder.sentences(cut_sentences(pieces)[0]))


class SentenceIndex:
    """The embedded sentences of a text in n pieces."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        pieces: Sequence[str],
        stored: Sequence[tuple[int, int, Stored]] = (),
        earlier: "SentenceIndex | None" = None,
        progress: Callable[[int], None] | None = None,
    ):
        """
        Args:
            pieces: the text of each. stored: what is kept of the sentences of pieces i … j − 1, as (i, j, sentences).
            earlier: of a text that began as this one.
            progress: called with the number of tokens embedded since the last call.
        """
        self.encoder = encoder
        self._sentences, self._begin = cut_sentences(pieces)
        self._embeddings = torch.zeros(len(self._sentences), encoder.size, dtype=torch.float16)
        known = np.zeros(len(self._sentences), dtype=bool)
        ends = [*self._begin.tolist(), len(self._sentences)]
        for first, last, kept in stored:
            here = slice(ends[first], ends[last])
            if kept.encoder == encoder.fingerprint and kept.sentences.shape == self._embeddings[here].shape:
                self._embeddings[here], known[here] = kept.sentences, True
        if earlier is not None and earlier.encoder is encoder:
            pairs = enumerate(zip(self._sentences, earlier._sentences, strict=False))
            alike = next((i for i, (ours, theirs) in pairs if ours != theirs), min(len(known), len(earlier._sentences)))
            self._embeddings[:alike], known[:alike] = earlier._embeddings[:alike], True
        missing = np.flatnonzero(~known)
        if len(missing):
            self._embeddings[missing] = encoder.sentences([self._sentences[i] for i in missing], progress)

    def scores(self, question: str) -> tuple[Float[Tensor, " n"], Compared]:
        """(n,) the cosine of a question and the nearest sentence of each piece; and what was done for it."""
        before = self.encoder.operations
        asked = self.encoder.question(question).float()
        near = torch.cat([block.float() @ asked for block in self._embeddings.split(_BLOCK)])
        spent = self.encoder.operations - before + 2 * self._embeddings.numel()
        return torch.from_numpy(np.maximum.reduceat(near.numpy(), self._begin)), Compared(encoded=spent)
