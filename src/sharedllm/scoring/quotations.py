"""Where a text repeats a question word for word: there are all of its words, and no answer."""

from bisect import bisect_left

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..utils.text import decode
from .words import quotes


def quotation(
    text: Int[Tensor, " Z"], first: int, last: int, question: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int] | None:
    """Where a part of a text quotes a question (see `words.quotes`).

    Args:
        text: (Z,) ids; below 0 where there is no token. first, last: the part, indices into the text.

    Returns:
        The first quotation's tokens, from and to; None if there is none.
    """
    places = [place for place, index in enumerate(text[first:last].tolist(), start=first) if index >= 0]
    ids = text[places].tolist()

    def within(begin: int, end: int) -> bool:
        return quotes(decode(tokenizer, ids[begin:end]), question)

    if not within(0, len(ids)):
        return None
    # A quotation stays one when text around it goes, until it is cut itself.
    end = bisect_left(range(len(ids)), True, key=lambda end: within(0, end))
    begin = bisect_left(range(end), True, key=lambda begin: not within(begin, end)) - 1
    return places[begin], places[end - 1] + 1
