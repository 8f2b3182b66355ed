"""The sources of an answer: the parts of a memory that the selection kept whole, by document."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..documents.places import place_of
from ..memory.context_memory import ContextMemory
from ..memory.segment import placed
from ..scoring.words import words_of
from ..utils.text import decode_pieces

# A word with more letters than this is none: it is not completed.
_LONGEST_WORD = 40
_WORD_BEFORE, _WORD_AFTER = re.compile(r"\S*\Z"), re.compile(r"\S*")
# What readers see as one: a letter with its accents and vowel signs, a family or a flag of several emoji.
_VISIBLE = regex.compile(r"\X")
# A word, or a part of what has no spaces.
_WORD = regex.compile(rf"(?:(?!\s)\X){{1,{_LONGEST_WORD}}}")


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


def cite(chosen: ContextMemory, scores: Tensor, most: int | None = None, row: int = 0) -> list[Citation]:
    """The parts of a text that were kept whole for their score, best first. No part crosses the border of a document.

    Args:
        chosen: the result of `select`. scores: (B, Z), the scores it used. most: how many parts; default: all.
        row: which text.
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


def supporting(texts: Sequence[str], question: str, answer: str) -> list[int]:
    """The order in which to name the texts that were read for an answer: first those that have half of the words or more
    which the answer adds to the question, else as they are."""
    added = set(words_of(answer)) - set(words_of(question))
    lacks = [2 * len(added & set(words_of(text))) < len(added) for text in texts]
    return sorted(range(len(texts)), key=lacks.__getitem__)


def excerpt(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int = 0
) -> tuple[str, int, int]:
    """The text of the cited tokens, and its start and end in its document, in characters."""
    found = _located(tokenizer, memory, citation, row)
    return found.text, found.start, found.start + len(found.text)


@dataclass(frozen=True)
class _Located:
    """A cited text, the text around it as far as it is needed, whether more follows, its first character, and its place in
    words, "" if that is not known."""

    before: str
    text: str
    after: str
    more: bool
    start: int
    place: str

    @property
    def readable(self) -> str:
        """The text for readers: with the rest of the words, numbers or visible characters in which it begins and ends, and an
        ellipsis where its first line begins earlier or its last line goes on."""
        left, right = _WORD_BEFORE.search(self.before), _WORD_AFTER.match(self.after)
        left = left[0] if left and not self.text[:1].isspace() else ""
        right = right[0] if right and not self.text[-1:].isspace() else ""
        begin, end = _visible(left + self.text + right, len(left), len(left + self.text))
        # What has no spaces, as Chinese or Thai, has no words to complete, only visible characters.
        if len(right) >= _LONGEST_WORD or (self.more and right == self.after):
            right = right[: end - len(left + self.text)]
        if len(left) >= _LONGEST_WORD:
            left = left[begin:]
        text = left + self.text + right
        before = self.before[: len(self.before) - len(left)] if self.before or not self.start else " "
        after = self.after[len(right) :]
        begins = not before or before.endswith("\n") or text.startswith("\n")
        ends = not after or after.startswith("\n") or text.endswith("\n")
        return ("" if begins else "…") + text.strip() + ("" if ends else "…")


def _visible(text: str, begin: int, end: int) -> tuple[int, int]:
    """The borders of a part of a text, moved outwards to where no visible character is cut."""
    borders = [0, *(found.end() for found in _VISIBLE.finditer(text))]
    return max(border for border in borders if border <= begin), min(border for border in borders if border >= end)


def _located(tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int) -> _Located:
    source = {source["start"]: source for source in documents(memory, row)}[citation.offset]
    # Count characters from the last place before the citation where their number is known.
    mark, characters = max((m for m in source.get("marks", []) if m[0] <= citation.start), default=(0, 0))
    ids = memory.token_ids[row, citation.offset + mark : citation.offset + source["tokens"]].tolist()
    begin, end = citation.start - mark, citation.end - mark
    # What is lost has zeros for ids.
    near = sum(1 for _ in itertools.takewhile(bool, ids[end : end + _LONGEST_WORD]))
    before, text, after = decode_pieces(tokenizer, ids, [0, begin, end, end + near], behind=characters > 0)
    start, end = characters + len(before), characters + len(before) + len(text)
    above, lines = dict(source.get("lines", [])).get(mark), None
    if above is not None:
        # Line ends at the borders of the text don't count: the words between them are what is cited.
        first = above + 1 + before.count("\n") + text[: len(text) - len(text.lstrip())].count("\n")
        lines = first, first + text.strip().count("\n")
    place = place_of(source.get("places", ()), start, end, source.get("unit", ""), lines)
    return _Located(before, text, after, near == _LONGEST_WORD, start, place)


def around(text: str, about: str, most: int) -> str:
    """The part of a text with the most different words of another one: whole words of together at most so many characters, with
    an ellipsis where the text begins earlier or goes on."""
    if len(text) <= most:
        return text
    wanted, words = set(words_of(about)), list(_WORD.finditer(text))
    known = {word: wanted.intersection(words_of(word)) for word in {found[0] for found in words}}
    held: Counter[str] = Counter()
    best = first = left = last = 0
    for right, word in enumerate(words):
        held.update(known[word[0]])
        while left < right and word.end() - words[left].start() > most:
            held.subtract(known[words[left][0]])
            left += 1
        if (different := sum(count > 0 for count in held.values())) > best:
            best, first, last = different, left, right
    # As much before what was found as after it, if there is as much.
    first = next(place for place in range(first, last + 1) if known[words[place][0]] or place == last)
    spare = max(0, most - (words[last].end() - words[first].start()))
    begin = min(words[first].start() - spare // 2, len(text) - most)
    start = next(word.start() for word in words if word.start() >= begin)
    end = max(word.end() for place, word in enumerate(words) if place <= last or word.end() <= start + most)
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def describe(
    tokenizer: PreTrainedTokenizerBase, memory: ContextMemory, citation: Citation, row: int = 0
) -> dict[str, Any]:
    """A citation for display: document, its place there in words ("page 12", "lines 3–9"; "" if unknown), its
    characters and tokens, weight and text, and "excerpt": the text in whole words, with ellipses."""
    found = _located(tokenizer, memory, citation, row)
    return {
        "document": citation.document,
        "place": found.place,
        "characters": [found.start, found.start + len(found.text)],
        "tokens": [citation.start, citation.end],
        "weight": round(citation.weight, 4),
        "text": found.text,
        "excerpt": found.readable,
    }


def documents(memory: ContextMemory, row: int = 0) -> tuple[dict, ...]:
    """The documents of a text: "name", "tokens" and "start", the slot of its first token. Documents from a store also
    have "marks": numbers of tokens and characters before places where both are known. Documents read from files also have
    "lines": numbers of tokens and lines before such places; "unit", what a line is; "places" (see `documents.places.Origin`)."""
    return placed(memory.named[row])
