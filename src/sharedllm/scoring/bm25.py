"""BM25 over pieces of the text. Its words are tokens and pairs of tokens, so it assumes no language.

It looks up only the question's words, each by one comparison over all token ids, and needs no index: a million tokens
take some hundredths of a second per word. The scores equal those of `bm25s` (Lucene's variant).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..memory.segments import Segment
from ..model.backbone import SharedLLMModel
from ..utils.text import decode
from .base import TokenScore, extent, token_ids
from .quotations import quotation

# Replaces tokens of the question that do not count: no text contains it, and no pair crosses it.
NO_WORD = -2


class _Term(NamedTuple):
    """Tokens that stand one after the other. begins: only where a word begins with them; ends: only where one ends."""

    tokens: tuple[int, ...]
    begins: bool = False
    ends: bool = True


@dataclass(frozen=True)
class BM25Score:
    """piece: number of tokens ranked together; pieces overlap by half, and a token has the better score of its two.

    k1, b: saturation of a word's count, and how much a piece's length matters.
    tokenizer: if given, words are compared whole: the last token of a question's word counts only where the text's word
    ends too, so that "town7" does not match "town70", and a word of several tokens counts as one, too. And a quotation of the
    question does not count, which is looked for in pieces of at least `close` of the best score, unless what is left has nowhere
    `least` of it.
    """

    name: str = "bm25"
    needs_joint: bool = False
    piece: int = 32
    k1: float = 1.5
    b: float = 0.75
    close: float = 0.9
    least: float = 0.25
    tokenizer: PreTrainedTokenizerBase | None = None

    def scores(
        self,
        model: SharedLLMModel,
        segments: Sequence[Segment],
        query: Int[Tensor, "B Q"],
        mask: Bool[Tensor, "B Q"],
        words: Bool[Tensor, "B Q"] | None = None,
    ) -> Float[Tensor, "B Z"]:
        result = torch.zeros(len(query), extent(segments))
        asked = query.masked_fill(~words, NO_WORD) if words is not None else query
        for row, (ids, real) in enumerate(zip(asked.cpu(), mask.cpu(), strict=True)):
            text = token_ids(segments, row)
            if (text >= 0).any():
                result[row] = self._of(text, ids[real].tolist())
        return result

    def _of(self, text: Int[Tensor, " Z"], asked: list[int]) -> Float[Tensor, " Z"]:
        """(Z,) scores of one text."""
        return self.per_token(self.unquoted(text, asked)[1], len(text))

    def unquoted(self, text: Int[Tensor, " Z"], asked: list[int]) -> tuple[Int[Tensor, " Z"], Float[Tensor, " pieces"]]:
        """The text without quotations of the question, and the scores of its pieces; the text itself if then none is left
        with a score of at least `least` of what the quotation has."""
        total = self.total(text, asked)
        if self.tokenizer is None:
            return text, total
        left, rest = text, total
        while len(found := self._quotations(left, rest, [i for i in asked if i >= 0])):
            left = left.index_fill(0, found, -1)
            rest = self.total(left, asked)
        return (left, rest) if rest.max() >= self.least * total.max() else (text, total)

    def _quotations(
        self, text: Int[Tensor, " Z"], total: Float[Tensor, " pieces"], asked: list[int]
    ) -> Int[Tensor, " quoted"]:
        """The places of quotations of a question in the best pieces and beside them."""
        assert self.tokenizer is not None
        half, beside, found = self.piece // 2, len(asked) + self.piece // 2, []
        question = decode(self.tokenizer, asked)
        for piece in torch.nonzero((total > 0) & (total >= self.close * total.max())).flatten().tolist():
            first, last = max(0, piece * half - beside), min(len(text), piece * half + self.piece + beside)
            quoted = quotation(text, first, last, question, self.tokenizer)
            if quoted is not None:
                found.append(torch.arange(*quoted))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)

    def total(self, text: Int[Tensor, " Z"], asked: list[int]) -> Float[Tensor, " pieces"]:
        """(pieces,) scores of the pieces of a text. Adds word by word, because a question may have thousands."""
        words = self.by_word(text, asked)
        total = next(words).clone()
        for word in words:
            total += word
        return total

    def by_word(self, text: Int[Tensor, " Z"], asked: list[int]) -> Iterator[Float[Tensor, " pieces"]]:
        """(pieces,) for each word of a question, its contribution to the score of each piece; pieces begin every half
        piece."""
        half, halves = self.piece // 2, -(-len(text) // (self.piece // 2))

        def per_piece(places: Int[Tensor, " places"]) -> Float[Tensor, " pieces"]:
            """(pieces,) the number of `places` in each piece."""
            count = torch.bincount(places // half, minlength=halves).float()
            return self._with_next(count, count)

        same = torch.nonzero((text[:-1] >= 0) & (text[1:] >= 0)).flatten()
        lengths = per_piece(torch.nonzero(text >= 0).flatten()) + self._inside(same, 1, half, halves)
        norm = self.k1 * (1 - self.b + self.b * lengths / lengths[lengths > 0].mean())
        pieces = (lengths > 0).sum()
        for term, times in self._asked(asked).items():
            places, more = _places(text, term.tokens), len(term.tokens) - 1
            if term.begins:
                places = self._beginning(text, places)
            if term.ends:
                places = self._ending(text, places, more)
            found = self._inside(places, more, half, halves) if more else per_piece(places)
            having = (found > 0).sum()
            rarity = torch.log(1 + (pieces - having + 0.5) / (having + 0.5))
            yield times * rarity * found / (found + norm)

    def _asked(self, asked: list[int]) -> Counter[_Term]:
        """The tokens and pairs of a question, and its words that are not among them, with their counts. "1100" has all pairs of
        "100", but not the word."""
        ends = [self.tokenizer is not None] * len(asked)
        whole: list[_Term] = []
        if self.tokenizer is not None:
            continues = _continuing(self.tokenizer)
            ends[:-1] = [after == NO_WORD or not continues(after) for after in asked[1:]]
            # A pair that only a word begins with is the whole word already; one of more tokens than a half may not fit into a piece.
            whole = [
                _Term(word, begins=True)
                for word in self._words(asked)
                if 2 + (not continues(word[0])) <= len(word) <= self.piece // 2
            ]
        singles = [_Term((token,), ends=end) for token, end in zip(asked, ends, strict=True)]
        pairs = [_Term(pair, ends=end) for pair, end in zip(pairwise(asked), ends[1:], strict=True)]
        return Counter([*singles, *pairs, *whole])

    def _words(self, asked: list[int]) -> list[tuple[int, ...]]:
        """The tokens of each word of a question, without a space or a sign of its own before it."""
        assert self.tokenizer is not None
        continues, lettered = _continuing(self.tokenizer), _lettered(self.tokenizer)
        words: list[list[int]] = [[]]
        for token in asked:
            if token == NO_WORD or not continues(token):
                words.append([])
            if token != NO_WORD and lettered(token):
                words[-1].append(token)
        return [tuple(word) for word in words if word]

    def _ending(self, text: Int[Tensor, " Z"], places: Int[Tensor, " places"], last: int) -> Int[Tensor, " ending"]:
        """The places at which a word of the text ends `last` tokens later."""
        assert self.tokenizer is not None
        continues = _continuing(self.tokenizer)
        after = (places + last + 1).clamp(max=len(text) - 1)
        known, inverse = text[after].unique(return_inverse=True)
        going = torch.tensor([i >= 0 and continues(i) for i in known.tolist()], dtype=torch.bool)
        return places[~going[inverse] | (after == places + last)]

    def _beginning(self, text: Int[Tensor, " Z"], places: Int[Tensor, " places"]) -> Int[Tensor, " beginning"]:
        """The places at which a word of the text begins."""
        assert self.tokenizer is not None
        continues, lettered = _continuing(self.tokenizer), _lettered(self.tokenizer)
        before = zip(text[places].tolist(), text[(places - 1).clamp(min=0)].tolist(), places.tolist(), strict=True)
        begins = [place == 0 or not continues(token) or not lettered(last) for token, last, place in before]
        return places[torch.tensor(begins, dtype=torch.bool)]

    def per_token(self, scores: Float[Tensor, " pieces"], length: int) -> Float[Tensor, " {length}"]:
        """(Z,) from scores of pieces: the better score of a token's two pieces."""
        return scores.maximum(torch.cat([scores[:1], scores[:-1]])).repeat_interleave(self.piece // 2)[:length]

    def _inside(self, places: Int[Tensor, " places"], more: int, half: int, halves: int) -> Float[Tensor, " pieces"]:
        """(pieces,) how many words of 1 + more tokens, given by the place of their first, lie wholly in each piece."""
        first = torch.bincount(places // half, minlength=halves).float()
        inside = torch.bincount(places[places % half < half - more] // half, minlength=halves).float()
        return self._with_next(first, inside)

    @staticmethod
    def _with_next(own: Float[Tensor, " halves"], following: Float[Tensor, " halves"]) -> Float[Tensor, " halves"]:
        """A piece is a half plus the next half; the last half is a piece only if it is the only one."""
        if len(own) == 1:
            return own
        return torch.cat([own[:-1] + following[1:], own.new_zeros(1)])


def in_whole_words(score: TokenScore, tokenizer: PreTrainedTokenizerBase) -> TokenScore:
    """The score; a lexical score is changed to match whole words of the tokenizer, and to leave out quotations."""
    return replace(score, tokenizer=tokenizer) if isinstance(score, BM25Score) else score


def _places(text: Int[Tensor, " Z"], word: tuple[int, ...]) -> Int[Tensor, " places"]:
    """Where a word's tokens stand one after the other: the places of the first."""
    places = torch.nonzero(text[: len(text) - len(word) + 1] == word[0]).flatten()
    for behind, token in enumerate(word[1:], 1):
        places = places[text[places + behind] == token]
    return places


@lru_cache(maxsize=8)
def _lettered(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bool]:
    """Whether a token ends with a letter or a digit, as a token within a word does."""

    @lru_cache(maxsize=1 << 16)
    def lettered(index: int) -> bool:
        text = decode(tokenizer, [index]) if index >= 0 else ""
        return text[-1:].isalnum() or text[-1:] == "_"

    return lettered


@lru_cache(maxsize=8)
def _continuing(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], bool]:
    @lru_cache(maxsize=1 << 16)
    def continues(index: int) -> bool:
        # Decoded alone, a SentencePiece token loses the space before it.
        written, text = str(tokenizer.convert_ids_to_tokens(index)), decode(tokenizer, [index])
        return not written.startswith(("\u2581", "\u0120")) and (text[:1].isalnum() or text[:1] == "_")

    return continues
