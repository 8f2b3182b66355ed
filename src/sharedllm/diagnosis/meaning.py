"""After how many layers a base knows that two sentences say the same in other words: measured with facts that are hidden in a
text, and questions that share no word with them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..context.pieces import cut_pieces, piece_size
from ..context.stops import stops
from ..scoring.meaning import MeaningIndex
from ..utils.text import tokenize
from .rewordings import REWORDINGS
from .shallow import reciprocal, with_facts

# A depth that finds less than this is of no use: a piece of a text is often found by chance.
_LEAST = 0.2


@dataclass(frozen=True)
class Meaning:
    """found: by depth the mean of 1 / rank of the right piece. questions, pieces: the size of the measurement."""

    found: dict[int, float]
    questions: int
    pieces: int

    def choose(self) -> int | None:
        """The depth that finds most; None if that is hardly anything."""
        best = max(self.found, key=self.found.__getitem__, default=None)
        return best if best is not None and self.found[best] >= _LEAST else None


@torch.no_grad()
def measure_meaning(
    model: SharedLLMForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    depths: Sequence[int],
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Meaning:
    """Measure a base that is extended to read pieces.

    Args:
        text: to hide facts in; some 10,000 tokens. depths: ascending numbers of layers to try.
        progress: called with the number of tokens read since the last call.
    """
    whole = with_facts(random.Random(seed), text, [fact for fact, _ in REWORDINGS])
    ids = tokenize(tokenizer, whole)[0]
    ends = torch.tensor([len(ids)])
    pieces = cut_pieces(stops(tokenizer, ids), torch.zeros_like(ends), ends, piece_size(model.config.window))
    texts = tokenizer.batch_decode([ids[s:e].tolist() for s, e in zip(pieces.start, pieces.end, strict=True)])
    asked = []
    for fact, question in REWORDINGS:
        holding = [place for place, piece in enumerate(texts) if fact in piece]
        if len(holding) == 1:  # not cut by the end of a piece
            asked.append((question, holding[0]))
    if not asked:
        return Meaning({}, 0, len(pieces))
    index = MeaningIndex(model.model, tokenizer, ids, pieces, max(depths))
    scores = index.by_depth([question for question, _ in asked], depths, progress)
    found = {
        depth: sum(float(reciprocal(row[None], place)) for row, (_, place) in zip(rows, asked, strict=True))
        / len(asked)
        for depth, rows in zip(depths, scores, strict=True)
    }
    return Meaning(found, len(asked), len(pieces))
