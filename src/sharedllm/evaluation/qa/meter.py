"""Counting and cutting texts in a model's tokens, by characters."""

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...utils.text import tokenize_piece
from ...utils.text_files import PIECE


class Meter:
    """Counts the tokens of texts for one tokenizer. Counts are cached, because the same passages occur in many texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self._counts: dict[str, int] = {}

    def count(self, text: str) -> int:
        """Number of tokens of a text, without special tokens."""
        if text not in self._counts:
            self._counts[text] = len(self.tokens(text)[0])
        return self._counts[text]

    def tokens(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (T,) of a text, as `utils.text.tokenize` gives them, and the character at which each ends (T,)."""
        ids, ends, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
        for piece in _pieces(text):
            found, lengths = tokenize_piece(self.tokenizer, piece)
            ids.append(found.numpy())
            ends.append(start + lengths.cumsum(0).numpy())
            start += len(piece)
        return np.concatenate(ids), np.concatenate(ends)

    def cut(self, text: str, tokens: int) -> str:
        """The longest beginning of a text with at most `tokens` tokens."""
        ends = self.tokens(text)[1]
        return text if len(ends) <= tokens else text[: int(ends[tokens - 1])] if tokens > 0 else ""


def _pieces(text: str) -> list[str]:
    """Cut at line ends, as `utils.text.tokenize` does."""
    pieces, lines, size = [], [], 0
    for line in text.splitlines(keepends=True):
        if size > PIECE:
            pieces.append("".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    return [*pieces, "".join(lines)] if lines else pieces
