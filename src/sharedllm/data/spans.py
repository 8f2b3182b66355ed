"""The tokens of the k-th sample of a store: every token occurs once per epoch, in an order decided by a seed.

Samples are computed from their number instead of being drawn in sequence, so that a run can resume anywhere.
"""

import functools
from dataclasses import dataclass

import numpy as np

from ..utils.errors import UserError
from .shards import TokenStore


@dataclass(eq=False)
class Spans:
    """Samples of `length` tokens from one store. A document's samples are consecutive and begin at a new offset each epoch.

    Args:
        store: the tokens. length: tokens per sample. seed: decides order and offsets.
        joiner: None: no sample crosses the border of a document. Otherwise the documents form one stream, with this
            token between them.

    Raises:
        UserError: no document is long enough.
    """

    store: TokenStore
    length: int
    seed: int
    joiner: int | None = None

    def __post_init__(self):
        if self.joiner is None:
            self.lengths = np.asarray(self.store.lengths)
        else:
            self.ends = np.cumsum(np.asarray(self.store.lengths) + 1)
            self.lengths = self.ends[-1:]
        self.counts = self.lengths // self.length
        self.first = np.cumsum(self.counts) - self.counts
        self.per_epoch = int(self.counts.sum())
        if self.per_epoch == 0:
            longest = int(np.argmax(self.store.lengths))
            raise UserError(
                f"{self.store.folder}: no document holds a sample of {self.length:,} tokens; the longest, "
                f"{self.store.names[longest]}, has {self.store.lengths[longest]:,}: shorten the samples, or set "
                "cross_documents."
            )
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)

    def short(self) -> list[str]:
        """Names of the documents that are too short for a sample and therefore never used."""
        if self.joiner is not None:
            return []
        return [name for name, n in zip(self.store.names, self.lengths, strict=True) if n < self.length]

    def __getitem__(self, number: int) -> np.ndarray:
        """(length,) int64 token ids of sample `number`, counted over all epochs."""
        order, offsets = self._epoch(number // self.per_epoch)
        index = int(order[number % self.per_epoch])
        document = int(np.searchsorted(self.first, index, side="right")) - 1
        # A document without samples has the same first index as the next document; the last of these is the right one.
        start = int(offsets[document]) + (index - int(self.first[document])) * self.length
        return self.store.read(document, start, self.length) if self.joiner is None else self._stream(start)

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch, self.length])
        return rng.permutation(self.per_epoch), rng.integers(0, self.lengths - self.counts * self.length + 1)

    def _stream(self, start: int) -> np.ndarray:
        pieces, needed = [], self.length
        document = int(np.searchsorted(self.ends, start, side="right"))
        at = start - (int(self.ends[document - 1]) if document else 0)
        while needed:
            take = min(needed, int(self.store.lengths[document]) - at)
            pieces.append(self.store.read(document, at, take))
            if take < needed:
                pieces.append(np.array([self.joiner]))
                take += 1
            needed, document, at = needed - take, document + 1, 0
        return np.concatenate(pieces)
