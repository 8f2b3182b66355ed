"""Sentences compared with a question, by the mean over their tokens and by the best match of each token of the question."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

# A sentence has at least so many tokens: the end of an abbreviation ends none.
_LEAST = 4
# What keeps a division from one by zero.
_TINY = 1e-6
# States of tokens on the CPU, in blocks (t, E), read anew by each call: those of a long text stay where its memory keeps them.
States = Callable[[], Iterable[Tensor]]


class Sentences:
    """Sentences of m pieces, ready to be compared with questions."""

    def __init__(self, means: Tensor, sentences: Tensor, lengths: Sequence[int], tokens: States | None = None):
        """
        Args:
            means: (s, E) mean state of each sentence. sentences: (T,) the sentence of each token, ascending.
            lengths: tokens of each piece. tokens: their states, or None to compare means alone.
        """
        self._begin = np.searchsorted(sentences.numpy(), np.arange(len(means)))
        first = np.cumsum([0, *lengths[:-1]])
        self._pieces = sentences.numpy()[first]
        self._spread = _spread(means - means.mean(0))
        self._means = normalize((means - means.mean(0)) / self._spread, dim=-1)
        self._tokens = tokens
        if tokens is not None:
            self._middle, self._deviation = _moments(tokens)
            standard = ((block.float() - self._middle).div_(self._deviation) for block in tokens())
            self._lengths = torch.cat([block.norm(dim=-1, keepdim=True) for block in standard]) + _TINY

    @classmethod
    def by_states(cls, states: States, weights: Tensor, sentences: Tensor, lengths: Sequence[int]) -> "Sentences":
        """From the states of tokens, in blocks (t, E)."""
        sums, at = torch.zeros(int(sentences[-1]) + 1, next(iter(states())).shape[1]), 0
        for block in states():
            here = slice(at, at := at + len(block))
            sums.index_add_(0, sentences[here], block.float() * weights[here, None])
        return cls(sums / _totals(weights, sentences), sentences, lengths, states)

    @classmethod
    def by_embedding(
        cls, embed: Tensor, ids: Tensor, weights: Tensor, sentences: Tensor, lengths: Sequence[int]
    ) -> "Sentences":
        """From the embeddings of tokens, without their states."""
        begin = torch.searchsorted(sentences, torch.arange(int(sentences[-1]) + 1))
        device, weighted = embed.device, weights.to(embed.device, embed.dtype)
        sums = embedding_bag(ids.to(device), embed, begin.to(device), mode="sum", per_sample_weights=weighted)
        return cls(sums.float().cpu() / _totals(weights, sentences), sentences, lengths)

    def means(self, asked: Sequence[Tensor], weights: Sequence[Tensor]) -> Float[Tensor, " m"]:
        """(m,) how near a question's mean is to the nearest sentence of each piece.

        Args:
            asked: states (Q, E) of the question, and of others. weights: (Q,) of their tokens.
        """
        mine, *others = (w @ states.float() / w.sum() for states, w in zip(asked, weights, strict=True))
        query = normalize((mine - torch.stack(others).mean(0)) / self._spread, dim=-1)
        return self._best(self._means @ query)

    def scores(self, asked: Sequence[Tensor], weights: Sequence[Tensor]) -> Float[Tensor, " m"]:
        """(m,) by means and by single tokens, with equal weights. Arguments are those of `means`."""
        assert self._tokens is not None
        query = normalize((asked[0].float() - torch.cat(list(asked[1:])).float().mean(0)) / self._deviation, dim=-1)
        # Of states in standard units, which are not made again: their product with it is that of the states, but for a constant.
        scaled = query / self._deviation
        products = torch.cat([block.float() @ scaled.T for block in self._tokens()]) - self._middle @ scaled.T
        near = products / self._lengths
        best = torch.from_numpy(np.maximum.reduceat(near.numpy(), self._begin, axis=0))
        matched = self._best(best @ weights[0] / weights[0].sum())
        return standard(self.means(asked, weights)) + standard(matched)

    def _best(self, sentences: Float[Tensor, " s"]) -> Float[Tensor, " m"]:
        return torch.from_numpy(np.maximum.reduceat(sentences.numpy(), self._pieces))


def cut_sentences(closes: Tensor, lengths: Sequence[int]) -> Int[Tensor, " T"]:
    """(T,) the sentence of each token of pieces of these lengths, ascending; no sentence crosses their borders."""
    stops, begin = np.flatnonzero(closes.numpy()) + 1, 0
    borders = []
    for end in np.cumsum(lengths).tolist():
        borders.append(begin)
        for stop in stops[np.searchsorted(stops, begin + _LEAST) : np.searchsorted(stops, end)].tolist():
            if stop - borders[-1] >= _LEAST:
                borders.append(stop)
        begin = end
    return torch.from_numpy(np.searchsorted(borders, np.arange(begin), side="right") - 1)


def _totals(weights: Tensor, sentences: Tensor) -> Float[Tensor, "s 1"]:
    return torch.zeros(int(sentences[-1]) + 1).index_add_(0, sentences, weights)[:, None]


def _moments(states: States) -> tuple[Float[Tensor, " E"], Float[Tensor, " E"]]:
    """(E,) the mean of each coordinate, and its root mean square around that, never 0; in double precision, because a few
    coordinates are far from 0 and vary little."""
    count, total, squares = 0, torch.zeros(1, dtype=torch.double), torch.zeros(1, dtype=torch.double)
    for block in states():
        count, total = count + len(block), total + block.double().sum(0)
    middle = total / count
    for block in states():
        squares = squares + (block.double() - middle).square().sum(0)
    return middle.float(), (squares / count).sqrt().float() + _TINY


def _spread(centred: Float[Tensor, "T E"]) -> Float[Tensor, " E"]:
    """(E,) root mean square of each coordinate, never 0."""
    return centred.square().mean(0).sqrt() + _TINY


def standard(scores: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Scores with mean 0 and standard deviation 1."""
    return (scores - scores.mean()) / (scores.std(correction=0) + _TINY)
