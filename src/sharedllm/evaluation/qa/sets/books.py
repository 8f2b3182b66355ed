"""Running text from the books of NarrativeQA, in which to hide facts, and for texts longer than a set of passages."""

import re
from collections.abc import Iterator
from pathlib import Path

from ..meter import Meter
from .base import Item, read_set

CHARACTERS = 6_000


def prose(folder: Path, why: str) -> Iterator[tuple[str, str]]:
    """(title, text) of every book, without typesetting gaps. why: see `read_set`."""
    for record in read_set(folder, "narrativeqa", why):
        yield record["title"], re.sub(r"\n{3,}", "\n\n", record["text"]).strip()


def sections(folder: Path, tokens: int, meter: Meter) -> list[Item]:
    """Sections of about 6,000 characters that end with a paragraph, with at least `tokens` tokens in total if the books
    suffice."""
    found = []
    for title, text in prose(folder, "whose books fill a text longer than all documents of the set"):
        start = 0
        while start < len(text) and tokens > 0:
            end = text.find("\n\n", start + CHARACTERS)
            end = len(text) if end < 0 else end
            found.append(Item(title, text[start:end].strip()))
            tokens -= meter.count(found[-1].text)
            start = end + 2
    return found
