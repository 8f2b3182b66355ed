"""The text of chunks and pieces, and their places in the whole text."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..utils.text import decode_pieces


class ChunkText:
    """The text between two cuts, and the number of characters before it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        ids: Tensor,
        documents: Sequence[dict],
        chunks: list[tuple[int, int]],
        cuts: set[int],
    ):
        """
        Args:
            ids: (Z,) by slot. documents: see `answering.citations.documents`.
            chunks: slots at which chunks begin and end, ascending. cuts: more slots to cut at, such as borders of
                documents and of pieces of chunks; cuts between chunks don't matter.
        """
        self.starts, self.texts, self.before = [], [], []
        begin = [document["start"] for document in documents]
        ordered, fresh = sorted({*cuts, *begin}), set(begin)
        spans = [
            span
            for start, end in chunks
            for span in pairwise([start, *ordered[bisect_right(ordered, start) : bisect_left(ordered, end)], end])
        ]
        # Spans of one document without a gap are decoded together.
        first = [0, *(i for i, (a, b) in enumerate(pairwise(spans), 1) if b[0] != a[1] or b[0] in fresh)]
        read, base, owner = 0, 0, -1
        for i, j in pairwise([*first, len(spans)]):
            start = spans[i][0]
            document = bisect_right(begin, start) - 1
            if document != owner:
                base, owner = read, document
            # After lost tokens the count continues where it is known again.
            known = dict(documents[document].get("marks", [])).get(start - begin[document], 0)
            read = base + known if known else read
            inside = [start, *(end for _, end in spans[i:j])]
            stretch, places = ids[start : inside[-1]].tolist(), [cut - start for cut in inside]
            for text in decode_pieces(tokenizer, stretch, places, behind=known > 0):
                self.texts.append(text)
                self.before.append(read)
                read += len(text)
            self.starts += inside[:-1]

    def between(self, start: int, end: int) -> str:
        return "".join(self.texts[bisect_left(self.starts, start) : bisect_left(self.starts, end)])

    def characters(self, start: int, end: int) -> list[int]:
        """Start and end, in characters, of the text between two slots."""
        last = bisect_left(self.starts, end) - 1
        return [self.before[bisect_left(self.starts, start)], self.before[last] + len(self.texts[last])]
