"""The text of a document in a memory, by characters."""

from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory, Searched
from ..memory.segment import placed
from ..utils.errors import first_of, shown
from ..utils.text import decode_pieces
from .errors import ServingError, invalid

# Most characters of a document that are sent at once, and how many are if none are asked for.
MOST, USUAL = 50_000, 10_000


def passage(
    memory: Memory, tokenizer: PreTrainedTokenizerBase, name: str, start: int = 0, end: int | None = None
) -> dict[str, Any]:
    """Characters start … end − 1 of a document, as far as it has them and at most MOST; by default USUAL. Lost parts of it are
    left out.

    Returns:
        "document", "characters" (where the text begins and ends), "total" characters of the document, and "text".

    Raises:
        ServingError: no document of that name, or several; `start` is after its end, or `end` before `start`.
    """
    if end is not None and end < start:
        raise invalid("end", f"end={end} is before start={start}: send an end from {start}, or leave it out.")
    documents = _documents(memory)
    names = [document["name"] for document in documents]
    if name not in names:
        held = first_of(names, like=name) or "none"
        raise ServingError(404, f"document={shown(name)} is not in this memory: it holds {held}.", "document")
    sizes = {document["name"]: document.get("characters") for document in documents}
    segments = list((memory.only(name) if isinstance(memory, Searched) else memory).segments)
    found = [source for segment in segments for source in placed(segment.sources[0]) if source["name"] == name]
    if not found:  # all of it is lost
        return {"document": name, "characters": [0, 0], "total": sizes.get(name) or 0, "text": ""}
    if len(found) > 1:
        message = f"document={shown(name)} is {len(found)} times in this memory: read each under a name of its own."
        raise ServingError(409, message, "document")
    (source,) = found
    # Decoding begins at the last place before the passage where the number of characters is known.
    marks = [*(source.get("marks") or [(0, 0)]), (source["tokens"], None)]
    parts, total, end = [], 0, start + (USUAL if end is None else min(end - start, MOST))
    known = sizes.get(name)
    for (token, before), (after, next_before) in pairwise(marks):
        if next_before is not None and next_before <= start:
            continue
        if before >= end and known is not None:
            break
        text = _decoded(tokenizer, segments, source["start"] + token, source["start"] + after, before > 0)
        parts.append((before, text))
        total = before + len(text)
    total = known if known is not None else total
    if start > total:
        raise invalid("start", f"start={start} is after the end of {shown(name)}: send one from 0 to {total}.")
    inside = [(max(start - at, 0), at, text) for at, text in parts if at < end and at + len(text) > start]
    cut = "".join(text[skip : end - at] for skip, at, text in inside)
    first = inside[0][1] + inside[0][0] if inside else min(start, total)
    return {
        "document": name,
        "characters": [first, first + len(cut)],
        "total": max(total, first + len(cut)),
        "text": cut,
    }


def _documents(memory: Memory) -> list[dict[str, Any]]:
    """The documents of a memory under the names that citations give them, which a text of unknown source has too."""
    if isinstance(memory, ContextMemory):
        return [source for text in memory.named for source in text]
    return memory.contents


def _decoded(tokenizer: PreTrainedTokenizerBase, segments: list, start: int, end: int, behind: bool) -> str:
    """The text of slots start … end − 1, as far as segments hold them."""
    ids: list[int] = []
    for segment in segments:
        low, high = max(start, segment.start), min(end, segment.start + int(segment.lengths[0]))
        if low < high:
            ids += segment.token_ids[0, low - segment.start : high - segment.start].tolist()
    return decode_pieces(tokenizer, ids, [0, len(ids)], behind=behind)[0] if ids else ""
