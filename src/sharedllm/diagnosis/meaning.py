"""After how many layers a base knows that two sentences say the same in other words: measured with questions that
share no word with the facts of a text (`posed`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..scoring.meaning import MeaningIndex
from .posed import Posed
from .shallow import reciprocal

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
    posed: Posed,
    depths: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> Meaning:
    """Measure a base that is extended to read pieces.

    Args:
        posed: as `pose_reworded` makes it. depths: ascending numbers of layers to try.
        progress: called with the number of tokens read since the last call.
    """
    pieces, asked = posed.pieces, posed.asked
    if not asked:
        return Meaning({}, 0, len(pieces))
    index = MeaningIndex(model.model, tokenizer, posed.ids[0], pieces, max(depths))
    scores = index.by_depth([each.question for each in asked], depths, progress)
    found = {
        depth: sum(float(reciprocal(row[None], each.piece)) for row, each in zip(rows, asked, strict=True)) / len(asked)
        for depth, rows in zip(depths, scores, strict=True)
    }
    return Meaning(found, len(asked), len(pieces))
