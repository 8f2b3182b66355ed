"""Questions about the text's own sentences: which one follows, and how one continues, word for word."""

import random
from dataclasses import dataclass
from itertools import pairwise

from ...utils.errors import UserError
from .base import Quiz, Split, sentences

WORDS = 6


@dataclass(frozen=True)
class Follows:
    """The first words of the sentence after a given one."""

    name: str = "follows"

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        found = sentences(text)
        flat = " ".join(text.split())
        pairs = [(a, b) for a, b in pairwise(found) if f"{a} {b}" in flat and flat.count(a) == 1]
        if not pairs:
            raise UserError("the text has no two sentences in a row that are each 6 to 40 words long.")
        first, second = rng.choice(pairs)
        answer = " ".join(second.split()[:WORDS])
        return Quiz((), f'Which sentence follows "{first}"?', answer, "It begins with: ")


@dataclass(frozen=True)
class Quotation:
    """How a sentence continues after its first words."""

    name: str = "quotation"

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        flat = " ".join(text.split())
        candidates = []
        for sentence in sentences(text):
            words = sentence.split()
            beginning = " ".join(words[:WORDS])
            if len(words) >= 2 * WORDS and flat.count(beginning) == 1:
                candidates.append((beginning, " ".join(words[WORDS : 2 * WORDS])))
        if not candidates:
            raise UserError(f"the text has no sentence of {2 * WORDS} words whose beginning occurs only once.")
        beginning, rest = rng.choice(candidates)
        return Quiz((), f'How does the sentence "{beginning} …" go on?', rest, f"{beginning} ")
