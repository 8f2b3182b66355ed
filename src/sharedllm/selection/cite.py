"""Where an answer comes from: the parts of a memory that a question kept whole, by document."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..memory import ContextMemory
from .parts import placed


@dataclass(frozen=True)
class Citation:
    """Tokens start … end − 1 of a document, kept whole; `weight` is the best score of a token there."""

    document: str
    start: int
    end: int
    weight: float


def cite(chosen: ContextMemory, scores: Tensor, most: int = 3, row: int = 0) -> list[Citation]:
    """The parts of a text that were kept whole, best first; none crosses the border of a document.

    Args:
        chosen: what `select` kept. scores: (B, T), what it went by. most: how many. row: which text.
    """
    kept = chosen.mask[row]
    positions = chosen.position[row][kept][chosen.ratio[row][kept] == 1].cpu()
    if len(positions) == 0:
        return []
    names, starts = _documents(chosen, row)
    document = torch.bucketize(positions, starts, right=True) - 1
    new = torch.ones_like(positions, dtype=torch.bool)
    new[1:] = (positions.diff() > 1) | (document.diff() != 0)
    first = torch.nonzero(new).flatten().tolist()
    found = []
    for begin, end in zip(first, [*first[1:], len(positions)], strict=True):
        part, index = positions[begin:end], int(document[begin])
        offset, weight = int(starts[index]), float(scores[row, part].max())
        found.append(Citation(names[index], int(part[0]) - offset, int(part[-1]) + 1 - offset, weight))
    return sorted(found, key=lambda citation: -citation.weight)[:most]


def excerpt(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int = 0
) -> tuple[str, int, int]:
    """The cited text, and where it begins and ends in its document, in characters."""
    names, starts = _documents(memory, row)
    offset = int(starts[names.index(citation.document)])
    ids = memory.token_ids[row, offset : offset + citation.end].tolist()
    before = tokenizer.decode(ids[: citation.start])
    text = tokenizer.decode(ids)[len(before) :]
    return text, len(before), len(before) + len(text)


def _documents(memory: ContextMemory, row: int) -> tuple[list[str], Tensor]:
    """Names of the documents of a text, and the slots that they begin at."""
    sources = placed(memory.sources[row] or ({"name": "the text", "tokens": int(memory.lengths[row])},))
    return [source["name"] for source in sources], torch.tensor([source["start"] for source in sources])
