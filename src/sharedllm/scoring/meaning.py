"""Pieces by their meaning, for questions that share no word with what answers them.

After about a quarter of its layers a base has understood a sentence so far that two which say the same in other words
have similar states. Each sentence is read in its piece through so many layers, and compared with a question twice: by the
mean over its tokens, in which rare ones count more (Arora et al., ICLR 2017), and by the best match of each token of the
question (late interaction: Khattab and Zaharia, SIGIR 2020). What all sentences and what all questions have in common is
subtracted before, and each coordinate is divided by its standard deviation, because a few of them outweigh all others
(Timkey and van Schijndel, EMNLP 2021).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces
from ..context.stops import ends_sentence
from ..model.backbone import SharedLLMModel
from ..utils.text import tokenize
from .questions import QUESTIONS
from .sentences import Sentences, cut_sentences
from .states import KeptStates, read_alone

# Texts of at most so many tokens are read on whole, once; of longer ones for each question the nearest tokens.
WHOLE, NEAREST = 163_840, 32_768
# Pieces whose states are compared at once.
_BLOCK = 128


@dataclass(frozen=True)
class Compared:
    """What was done to compare meanings.

    tokens  of the text that were compared with the question; those that were compared twice, before and after, count twice
    asked   tokens of the question. layers: how many it was read through
    read    (m,) lengths of the pieces that had to be read for it; without those that an earlier question needed too
    encoded floating-point operations of a sentence encoder
    """

    tokens: int = 0
    asked: int = 0
    layers: int = 0
    read: Int[Tensor, " m"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    encoded: float = 0.0


class MeaningIndex:
    """The sentences of a text in pieces, read through some layers when a question needs it, and kept for the next one."""

    def __init__(
        self,
        model: SharedLLMModel,
        tokenizer: PreTrainedTokenizerBase,
        ids: Int[Tensor, " Z"],
        pieces: Pieces,
        depth: int,
        kept: KeptStates | None = None,
        whole: int = WHOLE,
        most: int = NEAREST,
    ):
        """
        Args:
            ids: (Z,) token ids by slot. pieces: n of them. depth: how many layers read them.
            kept: their states after `depth` layers or fewer, to go on from, or where those after `depth` layers are kept.
            whole: tokens of a text that is read whole, and of what is kept of longer ones. most: tokens of these that are
                compared with a question.
        """
        self.model, self._tokenizer, self._pieces, self._depth = model, tokenizer, pieces, depth
        self._whole, self._most = whole, most
        self._slots, self._kept = pieces.slots(), kept
        # Those with states to compare before any is read for a question.
        self._begun = kept if kept is not None and kept.depth else None
        self._ids = ids[self._slots].long()
        self._lengths = pieces.lengths.tolist()
        self._sentences = cut_sentences(ends_sentence(tokenizer, self._ids), self._lengths)
        # How many sentences hold each token: rare ones say more.
        known = int(self._ids.max()) + 1
        self._holding = torch.bincount((self._sentences * known + self._ids).unique() % known, minlength=known)
        self._count = int(self._sentences[-1]) + 1
        # The states of pieces that questions needed, the latest last; and the sentences of the last question's.
        self._states: dict[int, Tensor] = {}
        self._last: tuple[Tensor, Sentences] | None = None
        self._common: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def go_on_from(self, earlier: "MeaningIndex") -> None:
        """Take over the states of the pieces that both have, from the index of a text with which this one begins."""
        if earlier.model is not self.model or earlier._depth != self._depth:
            return
        places = zip(self._pieces.start.tolist(), self._pieces.end.tolist(), strict=True)
        here = {place: piece for piece, place in enumerate(places)}
        for piece, states in earlier._states.items():
            place = int(earlier._pieces.start[piece]), int(earlier._pieces.end[piece])
            # What is kept beside a memory is loaded; a block that grew is read whole, so that it can be kept whole.
            if place in here and not (self._kept is not None and self._kept.keeps(place[0])):
                self._states[here[place]] = states

    @torch.no_grad()
    def scores(
        self,
        question: str,
        progress: Callable[[int], None] | None = None,
        chosen: Int[Tensor, " m"] | None = None,
    ) -> tuple[Float[Tensor, " n"], Compared]:
        """(n,) how near the best sentence of each piece is to a question in meaning, −∞ for pieces that were not compared;
        and what was done for it.

        Args:
            progress: called with the number of tokens read since the last call; it may ask other questions, or stop by raising.
            chosen: (m,) the pieces to compare, ascending; default: `nearest`. If nothing has to be read, all are compared.
        """
        (mine,) = self._tokenized([question])
        if not len(mine):
            return torch.zeros(len(self._pieces)), Compared()
        given = chosen is not None
        if chosen is None or self._read_enough:
            chosen = self.nearest(question)
        read = self._read_missing(chosen, progress)
        if self._last is None or not torch.equal(self._last[0], chosen):
            self._last = chosen, self._sentences_of(chosen)
        states, weights = self._asked(mine, self._depth)
        found = torch.full((len(self._pieces),), -torch.inf)
        found[chosen] = self._last[1].scores(states, weights)
        tokens, layers = int(self._pieces.lengths[chosen].sum()), self._depth
        if self._begun and not given and len(chosen) < len(found):
            tokens, layers = tokens + len(self._ids), layers + self._begun.depth
        return found, Compared(tokens, len(mine), layers, self._pieces.lengths[read])

    @torch.no_grad()
    def as_kept(self, question: str, chosen: Int[Tensor, " m"]) -> tuple[Float[Tensor, " m"], Compared] | None:
        """(m,) how near the best sentence of each of some pieces is to a question in the states that the memory keeps, so that
        nothing is read for it; None if these are of no use.

        chosen: (m,) pieces, ascending.
        """
        (mine,) = self._tokenized([question])
        if self._begun is None or not len(mine):
            return None
        depth, lengths = self._begun.depth, self._pieces.lengths[chosen]
        states = torch.cat(list(self._begun.blocks(self._slots[self._tokens_of(chosen)])()))
        sentences = self._by_states(list(states.split(lengths.tolist())), chosen)
        return sentences.scores(*self._asked(mine, depth)), Compared(int(lengths.sum()), len(mine), depth)

    @torch.no_grad()
    def by_depth(
        self, questions: Sequence[str], depths: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "depths questions n"]:
        """The scores (n,) of each question at several depths, all pieces compared, from one reading.

        progress: called with the number of tokens read since the last call.
        """
        every, common = self._ids.split(self._lengths), self._tokenized(QUESTIONS)
        asked = self._tokenized(questions)
        found = []
        for read, known, own in zip(
            read_alone(self.model, every, depths, progress),
            read_alone(self.model, common, depths),
            read_alone(self.model, asked, depths),
            strict=True,
        ):
            compared = self._by_states(read, torch.arange(len(read)))
            found += [
                compared.scores([states, *known], [self._weights(t) for t in (ids, *common)])
                for states, ids in zip(own, asked, strict=True)
            ]
        return torch.stack(found).unflatten(0, (len(depths), len(asked)))

    def _tokenized(self, texts: Sequence[str]) -> list[Tensor]:
        return [tokenize(self._tokenizer, text)[0] for text in texts]

    @torch.no_grad()
    def nearest(self, question: str) -> Int[Tensor, " m"]:
        """(m,) the pieces that are compared with a question, ascending: all of them if they have been read deeply enough or
        are few, else those that are nearest in the states that are kept; without these by the mean embeddings of sentences."""
        every = torch.arange(len(self._pieces))
        if self._read_enough or len(self._ids) <= self._whole:
            return every
        (asked,) = self._tokenized([question])
        if self._begun is not None:
            near = self._shallow.scores(*self._asked(asked, self._begun.depth))
        else:
            near = self._shallow.means(*self._asked(asked, 0))
        order = near.argsort(descending=True, stable=True)
        fits = self._pieces.lengths[order].cumsum(0) <= self._most
        return order[fits].sort().values

    @property
    def _read_enough(self) -> bool:
        return self._begun is not None and self._begun.depth == self._depth

    def _asked(self, question: Int[Tensor, " Q"], depth: int) -> tuple[list[Tensor], list[Tensor]]:
        """The states (Q, E) and weights (Q,) of a question and of those that have nothing in common but their form, which
        are read once."""
        if depth not in self._common:
            common = self._tokenized(QUESTIONS)
            self._common[depth] = read_alone(self.model, common, [depth])[0], [self._weights(ids) for ids in common]
        states, weights = self._common[depth]
        return [*read_alone(self.model, [question], [depth])[0], *states], [self._weights(question), *weights]

    @cached_property
    def _shallow(self) -> Sentences:
        """All sentences, before any is read for a question."""
        weights = self._weights(self._ids)
        if self._begun is not None:
            return Sentences.by_states(self._begun.blocks(self._slots), weights, self._sentences, self._lengths)
        embed = self.model.get_input_embeddings().weight
        return Sentences.by_embedding(embed, self._ids, weights, self._sentences, self._lengths)

    def _read_missing(
        self, chosen: Int[Tensor, " m"], progress: Callable[[int], None] | None = None
    ) -> Int[Tensor, " k"]:
        """Read those of some pieces that have not been read deeply enough, and say which."""
        if self._read_enough:
            return chosen[:0]
        self._load(self._missing(chosen))
        read = []
        # A question that is asked meanwhile may make this one's pieces forgotten.
        while len(missing := self._missing(chosen)):
            here, lengths = self._tokens_of(missing), self._pieces.lengths[missing].tolist()
            if self._kept is not None:
                states = self._kept.read_on(self._slots[here], self._depth, progress).split(lengths)
            else:
                (states,) = read_alone(self.model, self._ids[here].split(lengths), [self._depth], progress)
            if len(self._ids) > self._whole:
                # Each in memory of its own, which is free when the piece is forgotten.
                states = [piece.clone() for piece in states]
            self._states |= zip(missing.tolist(), states, strict=True)
            read.append(missing)
        for piece in chosen.tolist():
            self._states[piece] = self._states.pop(piece)
        # The oldest are forgotten, but for what this question needs.
        excess = sum(map(len, self._states.values())) - max(self._whole, int(self._pieces.lengths[chosen].sum()))
        while excess > 0:
            excess -= len(self._states.pop(next(iter(self._states))))
        return torch.cat(read) if read else chosen[:0]

    def _missing(self, chosen: Int[Tensor, " m"]) -> Int[Tensor, " k"]:
        """Those of some pieces that have not been read deeply enough, or are forgotten."""
        return chosen[[int(piece) not in self._states for piece in chosen]]

    def _load(self, missing: Int[Tensor, " k"]) -> None:
        """Take over what another process has read on of some pieces."""
        if self._kept is None or not len(missing):
            return
        starts, ends = self._pieces.start.tolist(), self._pieces.end.tolist()
        for begin, end, states in self._kept.loaded(self._slots[self._tokens_of(missing)], self._depth):
            for piece in range(bisect_left(starts, begin), bisect_left(starts, end)):
                self._states[piece] = states[starts[piece] - begin : ends[piece] - begin]

    def _sentences_of(self, chosen: Int[Tensor, " m"]) -> Sentences:
        """The sentences of some pieces, after `depth` layers."""
        return self._shallow if self._read_enough else self._by_states([self._states[int(p)] for p in chosen], chosen)

    def _by_states(self, states: list[Tensor], chosen: Int[Tensor, " m"]) -> Sentences:
        """The sentences of m pieces from the states (t, E) of their tokens."""
        here = self._tokens_of(chosen)
        blocks = [tuple(states[at : at + _BLOCK]) for at in range(0, len(states), _BLOCK)]
        sentences = self._sentences[here].unique(return_inverse=True)[1]
        weights, lengths = self._weights(self._ids[here]), self._pieces.lengths[chosen].tolist()
        return Sentences.by_states(lambda: map(torch.cat, blocks), weights, sentences, lengths)

    def _tokens_of(self, chosen: Int[Tensor, " m"]) -> Bool[Tensor, " T"]:
        """(T,) which tokens belong to some of the pieces."""
        return torch.isin(torch.repeat_interleave(torch.arange(len(self._pieces)), self._pieces.lengths), chosen)

    def _weights(self, ids: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
        """(T,) how much tokens say: log (1 + sentences / sentences that hold it)."""
        known = ids < len(self._holding)
        held = self._holding[ids * known] * known
        return torch.log1p(self._count / held.clamp(min=0.5))
