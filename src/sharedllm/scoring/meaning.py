"""Pieces by their meaning, for questions that share no word with what answers them.

After about a quarter of its layers a base has understood a sentence so far that two which say the same in other words
have similar states. Each sentence is read in its piece through so many layers, and compared with a question twice: by the
mean over its tokens, in which rare ones count more (Arora et al., ICLR 2017), and by the best match of each token of the
question (late interaction: Khattab and Zaharia, SIGIR 2020). What all sentences and what all questions have in common is
subtracted before, and each coordinate is divided by its standard deviation, because a few of them outweigh all others
(Timkey and van Schijndel, EMNLP 2021).
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces
from ..context.tree import Nodes
from ..model.backbone import SharedLLMModel
from ..utils.text import ends_sentence, tokenize
from .sentences import Sentences, cut_sentences

# Most tokens that are read to compare their meaning. Of longer texts the pieces whose embeddings are nearest are read.
MOST = 32_768
# What questions have in common, whatever they ask for.
_ASKED = (
    "Who wrote the first letter that is mentioned?",
    "Where does the story take place?",
    "When did the war end?",
    "What is the name of the ship?",
    "Why did they leave the city?",
    "How many people were hurt?",
    "Which animal lives in the forest?",
    "Whom did she meet at the station?",
    "What did the old man want to sell?",
    "How does the machine work?",
    "Who was responsible for the accident?",
    "What happened after dinner?",
    "In which year was the company founded?",
    "What do the authors conclude?",
    "Where was the money kept?",
    "What colour is the door?",
    "Which country won the match?",
    "How long did the journey take?",
    "What was the cause of the fire?",
    "Who sings the song in the film?",
    "What is the largest city in the region?",
    "Why was the king angry?",
    "How much does a ticket cost?",
    "What language do they speak there?",
    "Which method gives the best results?",
    "Who became president afterwards?",
    "What must be done before the test starts?",
    "At what age did she begin to paint?",
    "What did the doctor advise?",
    "Where can one buy the book?",
    "What are the rules of the game?",
    "How did the brothers escape?",
)


class MeaningIndex:
    """The sentences of a text in pieces, read through some layers when a question needs it, and kept for the next one."""

    def __init__(
        self,
        model: SharedLLMModel,
        tokenizer: PreTrainedTokenizerBase,
        ids: Int[Tensor, " Z"],
        pieces: Pieces,
        depth: int,
        most: int = MOST,
    ):
        """
        Args:
            ids: (Z,) token ids by slot. pieces: n of them. depth: how many layers read them.
            most: tokens read for one question.
        """
        self.model, self._tokenizer, self._pieces, self._depth, self._most = model, tokenizer, pieces, depth, most
        self._ids = ids[pieces.slots()].long()
        self._lengths = pieces.lengths.tolist()
        self._sentences = cut_sentences(ends_sentence(tokenizer, self._ids), self._lengths)
        # How many sentences hold each token: rare ones say more.
        known = int(self._ids.max()) + 1
        self._holding = torch.bincount((self._sentences * known + self._ids).unique() % known, minlength=known)
        self._count = int(self._sentences[-1]) + 1
        self._read: tuple[Tensor, Sentences] | None = None
        self._common: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    @torch.no_grad()
    def scores(self, question: str) -> tuple[Float[Tensor, " n"], Int[Tensor, " m"]]:
        """(n,) how near the best sentence of each piece is to a question in meaning, −∞ for pieces that were not compared;
        and (m,) the lengths of the pieces that were read for it."""
        (mine,) = self._tokenized([question])
        if not len(mine):
            return torch.zeros(len(self._pieces)), self._pieces.lengths[:0]
        chosen = self.nearest(question)
        known = self._read is not None and torch.equal(self._read[0], chosen)
        if self._read is None or not known:
            self._read = chosen, self._compared(chosen, self._depth)
        states, weights = self._asked(mine, self._depth)
        found = torch.full((len(self._pieces),), -torch.inf)
        found[chosen] = self._read[1].scores(states, weights)
        return found, self._pieces.lengths[chosen[:0] if known else chosen]

    @torch.no_grad()
    def by_depth(
        self, questions: Sequence[str], depths: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, "depths questions n"]:
        """The scores (n,) of each question at several depths, all pieces compared, from one reading.

        progress: called with the number of tokens read since the last call.
        """
        every, common = self._ids.split(self._lengths), self._tokenized(_ASKED)
        common_states = _states(self.model, common, depths)
        asked = self._tokenized(questions)
        found = []
        for read, known, own in zip(
            _states(self.model, every, depths, progress), common_states, _states(self.model, asked, depths), strict=True
        ):
            compared = Sentences.by_states(torch.cat(read), self._weights(self._ids), self._sentences, self._lengths)
            found += [
                compared.scores([states, *known], [self._weights(t) for t in (ids, *common)])
                for states, ids in zip(own, asked, strict=True)
            ]
        return torch.stack(found).unflatten(0, (len(depths), len(asked)))

    def _tokenized(self, texts: Sequence[str]) -> list[Tensor]:
        return [tokenize(self._tokenizer, text)[0] for text in texts]

    @torch.no_grad()
    def nearest(self, question: str) -> Int[Tensor, " m"]:
        """(m,) the pieces that are read for a question, ascending: all of them if they are few, else those with the sentence
        of the nearest mean embedding."""
        every = torch.arange(len(self._pieces))
        if len(self._ids) <= self._most:
            return every
        near = self._embedded.means(*self._asked(self._tokenized([question])[0], 0))
        order = near.argsort(descending=True, stable=True)
        fits = self._pieces.lengths[order].cumsum(0) <= self._most
        return order[fits].sort().values

    def _asked(self, question: Int[Tensor, " Q"], depth: int) -> tuple[list[Tensor], list[Tensor]]:
        """The states (Q, E) and weights (Q,) of a question and of those that have nothing in common but their form, which
        are read once."""
        if depth not in self._common:
            common = self._tokenized(_ASKED)
            self._common[depth] = _states(self.model, common, [depth])[0], [self._weights(ids) for ids in common]
        states, weights = self._common[depth]
        return [*_states(self.model, [question], [depth])[0], *states], [self._weights(question), *weights]

    @cached_property
    def _embedded(self) -> Sentences:
        return self._compared(torch.arange(len(self._pieces)), 0)

    def _compared(self, chosen: Int[Tensor, " m"], depth: int) -> Sentences:
        owner = torch.repeat_interleave(torch.arange(len(self._pieces)), self._pieces.lengths)
        here = torch.isin(owner, chosen)
        sentences = self._sentences[here].unique(return_inverse=True)[1]
        ids, lengths = self._ids[here], self._pieces.lengths[chosen].tolist()
        weights = self._weights(ids)
        if depth == 0:
            embed = self.model.get_input_embeddings().weight
            return Sentences.by_embedding(embed, ids, weights, sentences, lengths)
        states = torch.cat(_states(self.model, ids.split(lengths), [depth])[0])
        return Sentences.by_states(states, weights, sentences, lengths)

    def _weights(self, ids: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
        """(T,) how much tokens say: log (1 + sentences / sentences that hold it)."""
        known = ids < len(self._holding)
        held = self._holding[ids * known] * known
        return torch.log1p(self._count / held.clamp(min=0.5))


def _states(
    model: SharedLLMModel,
    texts: Sequence[Tensor],
    depths: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[list[Tensor]]:
    """For each depth the states (T, E) of each text (T,) after so many layers, each text read by itself, on the CPU."""
    lengths = torch.tensor([len(text) for text in texts])
    starts = torch.cumsum(lengths, 0) - lengths
    zeros = torch.zeros_like(lengths)
    units = Nodes(zeros, zeros, starts, lengths, zeros)
    unit, position = torch.repeat_interleave(torch.arange(len(texts)), lengths), torch.arange(int(lengths.sum()))
    ids = torch.cat(list(texts))[None].to(model.get_input_embeddings().weight.device)
    found = model.lower().encode(
        ids, units, unit, position, max(depths), lambda states: [states[d] for d in depths], progress=progress
    )
    return [list(states.cpu().split(lengths.tolist())) for states in found]
