"""Selecting the pieces of a text that a question needs: by its words, by shallow heads, or by both."""

import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces, choose_pieces, cut_pieces, piece_size
from ..memory.context_memory import ContextMemory
from ..memory.segments import Segment, take
from ..model.backbone import SharedLLMModel
from ..model.config import SharedLLMConfig
from ..utils.errors import UserError
from ..utils.text import decode, ends_sentence
from .base import extent, token_ids
from .defaults import default_score
from .heads import HeadIndex, Heads
from .words import WordIndex, said

# Name → (whether words count, whether heads count).
RANKINGS = {"bm25": (True, False), "attention": (False, True), "hybrid": (True, True)}
# The weight of heads relative to words. Chosen on even ids of NQ, FairytaleQA and HotpotQA (docs/real/README.md).
HEADS = 0.2
# Below this coverage a text hardly answers a question. Measured on NQ (60 questions, 240 passages): without the
# answering passage half are below, with it none. If a whole text is about the same people (FairytaleQA, 80 questions),
# hardly any is.
FOUND = 0.3
# Pieces whose score is a smaller share of the best one's are left out even if they fit into the budget: they cost time,
# and confuse a small model. On even ids hardly any evidence is lost by this, and answers are as good or better with fewer tokens
# (docs/real/choose_shares.py).
LEAST_SHARE = 0.6


@dataclass(frozen=True)
class Needed:
    """The pieces of a text that a question needs.

    pieces    n of them, in the text's order
    scores    (n,) how much each matters
    coverage  as in `Selected`
    """

    pieces: Pieces
    scores: Float[Tensor, " n"]
    coverage: float | None


@dataclass(frozen=True)
class Selected:
    """The part of a text that is read for a question.

    memory    the chosen tokens, in the text's order
    scores    (1, T) the score of the kept piece at each slot, −∞ elsewhere
    coverage  how much of the question one piece contains (see `WordIndex.covered`)
    """

    memory: ContextMemory
    scores: Tensor
    coverage: float | None


class TextIndex:
    """A text in pieces, to be asked many times. Everything that does not depend on the question is computed once."""

    def __init__(
        self,
        segments: Sequence[Segment],
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        pieces: Pieces | None = None,
        closing: Sequence[int] | None = None,
    ):
        """
        Args:
            segments: of one text. window: of the model that will read its pieces. pieces: the cut; default: at sentence ends.
            closing: the model's; it has read the text in pieces, which are the same then.
        """
        self._least, self._closing = piece_size(window), closing
        if pieces is not None:
            self.pieces = pieces
        self._segments, self._tokenizer = list(segments), tokenizer
        self.ids = token_ids(segments, 0)
        self._heads: HeadIndex | None = None

    @cached_property
    def pieces(self) -> Pieces:
        starts, ends = _stretches(self._segments, chunks=bool(self._closing))
        if self._closing:
            closes = torch.isin(self.ids, torch.tensor(list(self._closing)))
        else:
            closes = ends_sentence(self._tokenizer, self.ids)
        return cut_pieces(closes, starts, ends, self._least)

    @cached_property
    def texts(self) -> list[str]:
        """The text of each piece."""
        spans = zip(self.pieces.start.tolist(), self.pieces.end.tolist(), strict=True)
        return self._tokenizer.batch_decode([self.ids[start:end].tolist() for start, end in spans])

    @cached_property
    def words(self) -> WordIndex:
        return WordIndex(self.texts)

    def covered(self, question: str) -> tuple[Float[np.ndarray, " n"] | None, Bool[np.ndarray, " n"]]:
        """How much of a question each piece contains (see `WordIndex.covered`), and which pieces don't quote it.

        A piece that repeats a question word for word has all its words, so it says nothing about how good others are. If
        every piece does, all count as if none did.
        """
        covered, free = self.words.covered(question), np.ones(len(self.texts), dtype=bool)
        if covered is None:
            return None, free
        asked = f" {' '.join(said(question))} "
        for piece in np.flatnonzero(covered > 1 - 1e-6):
            free[piece] = asked not in f" {' '.join(said(self.texts[piece]))} "
        return covered, free if free.any() else ~free

    def heads(self, model: SharedLLMModel, segments: Sequence[Segment]) -> HeadIndex:
        """By the model's selection heads."""
        if self._heads is None or self._heads.model is not model:
            self._heads = HeadIndex(model, segments, self.pieces, model.config.selection_heads or ())
        return self._heads


_KEPT: OrderedDict[tuple, TextIndex] = OrderedDict()


def index_of(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    closing: Sequence[int] | None = None,
) -> TextIndex:
    """The index of a text; the last four are cached. Arguments are those of `TextIndex`."""
    # An index holds its tokens, so while it is cached no other tensor can have their address.
    key = (id(tokenizer), window, bool(closing), *((id(s.token_ids), s.start, int(s.lengths[0])) for s in segments))
    if key in _KEPT:
        _KEPT.move_to_end(key)
        return _KEPT[key]
    _KEPT[key] = TextIndex(segments, tokenizer, window, closing=closing)
    while len(_KEPT) > 4:
        _KEPT.popitem(last=False)
    return _KEPT[key]


def rank_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    index: TextIndex,
    question: str,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    score: str | None = None,
) -> Tensor:
    """(n,) how much each piece matters to a question.

    Args:
        question: its text. question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the question's own tokens.
        score: a name of `RANKINGS`; default: `default_score`.

    Raises:
        UserError: no such ranking, or the model names no heads for it.
    """
    by_words, heads = check_ranking(model.config, score or default_score(model.config))
    found = []
    if by_words:
        found.append(index.words.scores(question))
    if heads:
        found.append(index.heads(model, segments).scores(question_ids, own))
    return found[0] if len(found) == 1 else join(*found)


def join(words: Float[Tensor, " n"], heads: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(n,) two scores of n pieces combined, each as a share of its maximum, with a lower weight for heads. If no word
    matches, heads alone decide."""
    shares = (each / each.max().clamp(min=1e-20) for each in (words, heads.float()))
    return torch.stack([weight * share for weight, share in zip((1.0, HEADS), shares, strict=True)]).sum(0)


def least_score(
    ranked: Float[Tensor, " n"], covered: Float[np.ndarray, " n"] | None, free: Bool[np.ndarray, " n"]
) -> float:
    """The lowest score with which a piece is still read: a share of the best one's. If hardly any piece contains much of
    the question, every one may help.

    Args:
        covered, free: of `TextIndex.covered`; only pieces that don't quote the question are compared with.
    """
    most = 1.0 if covered is None else float(covered[free].max())
    if most < FOUND:
        return -math.inf
    return LEAST_SHARE * float(ranked[torch.from_numpy(free)].max())


def check_ranking(config: SharedLLMConfig, score: str) -> tuple[bool, Heads]:
    """Whether words count, and the heads that count.

    Raises:
        UserError: no such ranking, or the model names no heads for it.
    """
    if score not in RANKINGS:
        raise UserError(
            f"score={score!r} does not rank pieces, which a model with injection='deep' reads: use one of "
            f"{', '.join(sorted(RANKINGS))}."
        )
    by_words, by_heads = RANKINGS[score]
    heads = (config.selection_heads or ()) if by_heads else ()
    if by_heads and not heads:
        raise UserError(f"score={score!r} needs selection_heads: find them with `sharedllm extend`, or use bm25.")
    return by_words, heads


def _stretches(segments: Sequence[Segment], chunks: bool) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
    """The slots at which documents begin and end; text after a lost block counts as a new one.

    chunks: begin and end at the borders of chunks too.
    """
    begins = {source["start"] for segment in segments for text in segment.sources for source in text}
    starts: list[int] = []
    ends: list[int] = []
    for segment in segments:
        borders = sorted(b for b in begins if segment.start < b < segment.end)
        for start, end in zip([segment.start, *borders], [*borders, segment.end], strict=True):
            if ends and ends[-1] == start and start not in begins:
                ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
    if chunks:
        borders = {b for segment in segments for b in range(segment.start, segment.end, segment.chunk_size)}
        places = [(b, bisect_left(starts, b) - 1) for b in borders]
        # A border at the very beginning of a document is there already, and has the end of the one before it.
        inside = [b for b, place in places if place >= 0 and b < ends[place]]
        starts, ends = sorted([*starts, *inside]), sorted([*ends, *inside])
    return torch.tensor(starts, dtype=torch.long), torch.tensor(ends, dtype=torch.long)


def needed_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    budget: int,
    score: str | None = None,
) -> Needed:
    """The pieces of a text that a question needs, within a budget. Arguments and errors are those of `select_pieces`."""
    if len(segments[0].lengths) != 1:
        raise UserError(f"the memory holds {len(segments[0].lengths)} texts: select from one of them.")
    model.check_fingerprint(segments[0].fingerprint)
    score = score or default_score(model.config)
    index = index_of(segments, tokenizer, model.config.window, model.config.closing)
    question = decode(tokenizer, question_ids[0][own[0].to(question_ids.device)].tolist())
    ranked = rank_pieces(model, segments, index, question, question_ids, own, score)
    covered, free = index.covered(question)
    if check_ranking(model.config, score)[0]:
        ranked = ranked.masked_fill(ranked < least_score(ranked, covered, free), -torch.inf)
    chosen = choose_pieces(ranked, index.pieces, budget)
    coverage = None if covered is None else float(covered.max())
    return Needed(index.pieces[chosen], ranked[chosen].float(), coverage)


def select_pieces(
    model: SharedLLMModel,
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    question_ids: Int[Tensor, "1 Q"],
    own: Bool[Tensor, "1 Q"],
    budget: int,
    score: str | None = None,
) -> Selected:
    """The memory of the pieces of a text that a question needs, within a budget.

    Args:
        question_ids: (1, Q), as it follows the prefix. own: (1, Q) bool, the question's own tokens.
        budget: most tokens; fewer are chosen if few pieces match the question well. score: see `rank_pieces`.

    Raises:
        UserError: the memory is another model's or has several texts; the budget holds no piece; no such ranking.
    """
    needed = needed_pieces(model, segments, tokenizer, question_ids, own, budget, score)
    slots = needed.pieces.slots()
    scores = torch.full((1, extent(segments)), -torch.inf)
    scores[0, slots] = torch.repeat_interleave(needed.scores, needed.pieces.lengths)
    return Selected(take(segments, [slots], [torch.ones_like(slots)]), scores, needed.coverage)
