"""Retrieval into the window: the best pieces of the far context by BM25 are put before the running text.

This is what a practitioner would do instead of extending a model. Pieces are ranked against the query, put in the order
of the text, and fill half the window; the other half is running text.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.questions.base import sentence_borders
from ..utils.bm25 import BM25, tokenize
from .evaluated import Scores, SystemSpec, scores_of


@dataclass(frozen=True)
class Retrieval:
    """window: of the base, in tokens. piece: most tokens of a ranked piece."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int
    name: str = "bm25"
    piece: int = 64

    @property
    def running(self) -> int:
        return self.window // 2

    def prepare(self, far: Tensor, query: Tensor) -> list[Tensor]:
        """For each text the pieces that go into the window, in order."""
        return [self.best(self.index(ids), question, self.running) for ids, question in zip(far, query, strict=True)]

    def index(self, ids: Tensor) -> "Index":
        """The index of a text (T,), which can be asked many times."""
        pieces, bm25 = self._pieces(ids), None
        words = self._words(pieces) if len(ids) > self.window - self.running else []
        if any(words):
            bm25 = BM25()
            bm25.index(words, show_progress=False)
        return Index(ids, pieces, bm25)

    def best(self, index: "Index", question: Tensor, running: int) -> Tensor:
        """The best pieces that fit into the window with `running` tokens, in order."""
        left, chosen = self.window - running, []
        if len(index.ids) <= left:
            return index.ids
        # Code may be without a word.
        words = self._words([question])[0]
        scores = index.bm25.get_scores(words) if words and index.bm25 is not None else np.zeros(len(index.pieces))
        # Ties (for instance pieces with no matching word) are broken by nearness.
        for number in sorted(range(len(index.pieces)), key=lambda i: (-float(scores[i]), -i)):
            if len(index.pieces[number]) <= left:
                chosen.append(number)
                left -= len(index.pieces[number])
        # None may fit beside a long running text.
        return torch.cat([index.ids[:0], *(index.pieces[number] for number in sorted(chosen))])

    def score(self, state: list[Tensor], running: Tensor, targets: int) -> Scores:
        parts = []
        for found, row in zip(state, running, strict=True):
            text = torch.cat([found.to(row), row])[None]
            logits = self.model(text, logits_to_keep=targets + 1, use_cache=False).logits
            parts.append(scores_of(logits, row[None], targets))
        return Scores(torch.cat([p.log_probs for p in parts]), torch.cat([p.hits for p in parts]))

    def _pieces(self, ids: Tensor) -> list[Tensor]:
        """Cut after the last sentence end within a piece's size, or where it is full. A small window has smaller pieces."""
        size = min(self.piece, self.window - self.running)
        borders, cuts = sentence_borders(self.tokenizer, ids.cpu().numpy()), [0]
        while cuts[-1] < len(ids):
            full = min(cuts[-1] + size, len(ids))
            last = int(np.searchsorted(borders, full, side="right")) - 1
            cuts.append(int(borders[last]) if last >= 0 and borders[last] > cuts[-1] else full)
        return [ids[start:end] for start, end in pairwise(cuts)]

    def _words(self, pieces: list[Tensor]) -> list[list[str]]:
        texts = [self.tokenizer.decode(piece) for piece in pieces]
        return tokenize(texts, stopwords="en", show_progress=False, return_ids=False)


@dataclass(frozen=True)
class Index:
    """ids: (T,) of a text. pieces: the ranked pieces. bm25: their index, None if the whole text fits or has no word."""

    ids: Tensor
    pieces: list[Tensor]
    bm25: Any


def bm25(spec: SystemSpec) -> Retrieval:
    """Over the base, or over the weights of ours, as the entry says."""
    return Retrieval(spec.model, spec.tokenizer, spec.window, spec.name)
