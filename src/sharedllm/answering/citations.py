"""The sources of an answer: the parts of a memory that the selection kept whole, by document."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..documents.places import place_of
from ..memory.context_memory import ContextMemory
from ..memory.segment import placed
from ..utils.text import decode_pieces


@dataclass(frozen=True)
class Citation:
    """Tokens start … end − 1 of a document, kept whole.

    weight  the best score of a token there
    offset  slot at which the document begins
    """

    document: str
    start: int
    end: int
    weight: float
    offset: int


def cite(chosen: ContextMemory, scores: Tensor, most: int = 3, row: int = 0) -> list[Citation]:
    """The parts of a text that were kept whole for their score, best first. No part crosses the border of a document.

    Args:
        chosen: the result of `select`. scores: (B, Z), the scores it used. most: how many parts. row: which text.
    """
    kept = chosen.mask[row]
    positions = chosen.position[row][kept][chosen.stride[row][kept] == 1].cpu()
    if len(positions) == 0:
        return []
    sources = documents(chosen, row)
    starts = torch.tensor([source["start"] for source in sources])
    document = torch.bucketize(positions, starts, right=True) - 1
    new = torch.ones_like(positions, dtype=torch.bool)
    new[1:] = (positions.diff() > 1) | (document.diff() != 0)
    first = torch.nonzero(new).flatten().tolist()
    found = []
    for begin, end in zip(first, [*first[1:], len(positions)], strict=True):
        part, index = positions[begin:end], int(document[begin])
        offset, weight = int(starts[index]), float(scores[row, part].max())
        name = sources[index]["name"]
        if weight > -float("inf"):
            found.append(Citation(name, int(part[0]) - offset, int(part[-1]) + 1 - offset, weight, offset))
    return sorted(found, key=lambda citation: -citation.weight)[:most]


def excerpt(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int = 0
) -> tuple[str, int, int]:
    """The cited text, and its start and end in its document, in characters."""
    text, start, end, _ = _located(tokenizer, memory, citation, row)
    return text, start, end


def _located(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int
) -> tuple[str, int, int, str]:
    """As `excerpt`, and its place in its document in words, "" if it is not known."""
    source = {source["start"]: source for source in documents(memory, row)}[citation.offset]
    # Count characters from the last place before the citation where their number is known.
    mark, characters = max((m for m in source.get("marks", []) if m[0] <= citation.start), default=(0, 0))
    ids = memory.token_ids[row, citation.offset + mark : citation.offset + source["tokens"]].tolist()
    cuts = [0, citation.start - mark, citation.end - mark]
    before, text = decode_pieces(tokenizer, ids, cuts, behind=characters > 0)
    start, end = characters + len(before), characters + len(before) + len(text)
    above, lines = dict(source.get("lines", [])).get(mark), None
    if above is not None:
        # Line ends at the borders of the text don't count: the words between them are what is cited.
        first = above + 1 + before.count("\n") + text[: len(text) - len(text.lstrip())].count("\n")
        lines = first, first + text.strip().count("\n")
    return text, start, end, place_of(source.get("places", ()), start, end, source.get("unit", ""), lines)


def describe(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int = 0
) -> dict[str, Any]:
    """A citation for display: document, its place there in words ("page 12", "lines 3–9"; "" if unknown), its characters
    and tokens, weight and text."""
    text, start, end, place = _located(tokenizer, memory, citation, row)
    return {
        "document": citation.document,
        "place": place,
        "characters": [start, end],
        "tokens": [citation.start, citation.end],
        "weight": round(citation.weight, 4),
        "text": text,
    }


def documents(memory: ContextMemory, row: int = 0) -> tuple[dict, ...]:
    """The documents of a text: "name", "tokens" and "start", the slot of its first token. Documents from a store also
    have "marks": numbers of tokens and characters before places where both are known. Documents read from files also have
    "lines": numbers of tokens and lines before such places; "unit", what a line is; "places" (see `documents.places.Origin`)."""
    return placed(memory.named[row])
