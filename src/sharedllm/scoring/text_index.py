"""A text in pieces, to be asked many times: everything about it that does not depend on the question."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..context.pieces import Pieces, cut_chunks, cut_pieces, piece_size
from ..context.stops import Marks, stops
from ..memory.segment import Stored
from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from .base import token_ids
from .embedded import SentenceIndex, embedded
from .encoder import SentenceEncoder, encoder_of
from .heads import HeadIndex
from .meaning import MeaningIndex
from .states import KeptStates, layers_kept
from .words import WordIndex, quotes


class TextIndex:
    """A text in pieces. What a question needs of it is computed once."""

    def __init__(
        self,
        segments: Sequence[Segment],
        tokenizer: PreTrainedTokenizerBase,
        window: int,
        pieces: Pieces | None = None,
        marks: Marks | None = None,
    ):
        """
        Args:
            segments: of one text. window: of the model that will read its pieces. pieces: the cut; default: `units`.
            marks: those of a model that has read the text in pieces.
        """
        self._least, self._marks = piece_size(window), marks
        if pieces is not None:
            self.pieces = pieces
        self.segments, self._tokenizer = list(segments), tokenizer
        self.ids = token_ids(segments, 0)
        self._heads: HeadIndex | None = None
        self._meaning: MeaningIndex | None = None
        self._earlier: MeaningIndex | None = None
        self._sentences: SentenceIndex | None = None
        self._earlier_sentences: SentenceIndex | None = None

    def go_on_from(self, earlier: "TextIndex") -> None:
        """Use what was read for the questions about a text with which this one begins; of any other text nothing is taken."""
        begun = len(earlier.ids)
        if begun <= len(self.ids) and torch.equal(self.ids[:begun], earlier.ids):
            self._earlier = earlier._meaning or earlier._earlier or self._earlier
            self._earlier_sentences = earlier._sentences or earlier._earlier_sentences or self._earlier_sentences

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces that are ranked."""
        return self.units

    @cached_property
    def units(self) -> Pieces:
        """The pieces in which a text is cut by its form; a model with `marks` has read them, each by itself."""
        starts, ends = _stretches(self.segments, chunks=self._marks is not None)
        found = stops(self._tokenizer, self.ids) if self._marks is None else self._marks.at(self.ids)
        return cut_pieces(found, starts, ends, self._least)

    @cached_property
    def texts(self) -> list[str]:
        """The text of each piece."""
        return _texts(self._tokenizer, self.ids, self.pieces)

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
        for piece in np.flatnonzero(covered > 1 - 1e-6):
            free[piece] = not quotes(self.texts[piece], question)
        return covered, free if free.any() else ~free

    def heads(self, model: SharedLLMModel, segments: Sequence[Segment]) -> HeadIndex:
        """By the model's selection heads."""
        if self._heads is None or self._heads.model is not model:
            self._heads = HeadIndex(model, segments, self.pieces, model.config.selection_heads or ())
        return self._heads

    def meaning(self, model: SharedLLMModel, segments: Sequence[Segment]) -> MeaningIndex:
        """By the states after the model's `meaning_layers` layers."""
        if self._meaning is None or self._meaning.model is not model:
            # Only pieces that were read alone are each inside one segment.
            alone = self._marks is not None and self.pieces is self.units
            used = alone or layers_kept(model.config) is not None
            kept = KeptStates(model, segments, self.units) if used else None
            depth = model.config.meaning_layers or 0
            self._meaning = MeaningIndex(model, self._tokenizer, self.ids, self.pieces, depth, kept)
            if self._earlier is not None:
                self._meaning.go_on_from(self._earlier)
                self._earlier = None
        return self._meaning

    def sentences(
        self, encoder: SentenceEncoder, segments: Sequence[Segment], progress: Callable[[int], None] | None = None
    ) -> SentenceIndex:
        """By a sentence encoder; what the memory does not hold of its embeddings is made. progress: of `SentenceIndex`."""
        if self._sentences is None or self._sentences.encoder is not encoder:
            begin, stored = self.pieces.start.tolist(), []
            if self.pieces is self.units:
                parts = [(s, bisect_left(begin, s.start), bisect_left(begin, s.end)) for s in segments]
                stored = [(first, last, s.embedded()) for s, first, last in parts if s.embedded is not None]
            self._sentences = SentenceIndex(encoder, self.texts, stored, self._earlier_sentences, progress)
            self._earlier_sentences = None
        return self._sentences


def embedded_sentences(
    model: SharedLLMModel, tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, " T"]
) -> Stored | None:
    """The sentences of a text in the pieces in which a model reads it, to be kept with its memory; None if the model has no sentence
    encoder, or reads chunks whole."""
    encoder, config = encoder_of(model), model.config
    if encoder is None or config.marks is None:
        return None
    pieces = cut_chunks(config.marks, ids, config.chunk_size, piece_size(config.window))
    return embedded(encoder, _texts(tokenizer, ids, pieces))


def _texts(tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, " T"], pieces: Pieces) -> list[str]:
    spans = zip(pieces.start.tolist(), pieces.end.tolist(), strict=True)
    return tokenizer.batch_decode([ids[start:end].tolist() for start, end in spans])


_KEPT: OrderedDict[tuple, TextIndex] = OrderedDict()


def index_of(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    marks: Marks | None = None,
) -> TextIndex:
    """The index of a text; the last four are cached. Arguments are those of `TextIndex`."""
    # An index holds its tokens, so while it is cached no other tensor can have their address.
    key = (id(tokenizer), window, marks is not None, *((id(s.token_ids), s.start, int(s.lengths[0])) for s in segments))
    if key in _KEPT:
        _KEPT.move_to_end(key)
        return _KEPT[key]
    index = TextIndex(segments, tokenizer, window, marks=marks)
    for other, earlier in _KEPT.items():
        # Of a text that was appended to, the latest one before.
        if other[:3] == key[:3]:
            index.go_on_from(earlier)
    _KEPT[key] = index
    while len(_KEPT) > 4:
        _KEPT.popitem(last=False)
    return _KEPT[key]


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
