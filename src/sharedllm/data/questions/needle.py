"""Needles: facts "key → value" hidden in the text, and questions for them.

Validation and test use the plain forms below. Two thirds of the training questions come from `varied` instead.
"""

import random
from dataclasses import dataclass

from ..synthetic import NOUNS, make_needles, needle_keys
from . import varied
from .base import Quiz, Split, choose
from .vocabulary import digits

# (sentence, question, lead), with {key} and {value}. The last one is never trained on.
PHRASINGS = (
    (
        " The secret code of the {key} is {value}.",
        "What is the secret code of the {key}?",
        "The secret code of the {key} is ",
    ),
    (
        " Remember that the {key} has the number {value}.",
        "Which number does the {key} have?",
        "The {key} has the number ",
    ),
    (
        " Whoever asks for the {key} must say the password {value}.",
        "Which password must be said for the {key}?",
        "The password for the {key} is ",
    ),
    (" It is written that the {key} came in the year {value}.", "In which year did the {key} come?", "It came in "),
    (" In the ledger the {key} stands at page {value}.", "At which page does the {key} stand?", "It stands at page "),
)


def _varied(rng: random.Random, split: Split) -> bool:
    return split == "train" and rng.random() < 2 / 3


def _value(rng: random.Random) -> str:
    """Five digits; one time in four a word."""
    return digits(rng) if rng.random() < 0.75 else rng.choice(NOUNS)


def _fact(phrasing: int, key: str, value: str) -> str:
    return PHRASINGS[phrasing][0].format(key=key, value=value)


@dataclass(frozen=True)
class Passkey:
    """One fact of five digits in one fixed phrasing: the simplest form, which small bases can answer."""

    name: str = "passkey"

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        (needle,) = make_needles(rng, 1, split)
        lead = f"The secret code of the {needle.key} is "
        return Quiz((needle.statement,), f"What is the secret code of the {needle.key}?", needle.answer, lead)


@dataclass(frozen=True)
class Needle:
    """One fact, one question."""

    name: str = "needle"

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        if _varied(rng, split):
            return varied.needles(rng, 1)
        key, value = rng.choice(needle_keys(split)), _value(rng)
        phrasing = choose(rng, tuple(p[0] for p in PHRASINGS), split)
        _, question, lead = PHRASINGS[phrasing]
        return Quiz((_fact(phrasing, key, value),), question.format(key=key), value, lead.format(key=key))


@dataclass(frozen=True)
class Keys:
    """One fact among others of the same form."""

    name: str = "keys-4"
    distractors: int = 3

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        if _varied(rng, split):
            return varied.needles(rng, 1 + rng.randint(self.distractors // 2, 2 * self.distractors))
        keys = rng.sample(needle_keys(split), self.distractors + 1)
        phrasing = choose(rng, tuple(p[0] for p in PHRASINGS), split)
        values = [digits(rng) for _ in keys]
        asked = rng.randrange(len(keys))
        _, question, lead = (part.format(key=keys[asked], value="") for part in PHRASINGS[phrasing])
        facts = tuple(_fact(phrasing, key, value) for key, value in zip(keys, values, strict=True))
        return Quiz(facts, question, values[asked], lead)


def crowd(rng: random.Random, count: int, split: Split) -> list[Quiz]:
    """`count` facts of one form about different keys, each with its own question; in training half of them are plain.

    Each of them could be mistaken for the answer to the question about another.
    """
    if split == "train" and rng.random() < 0.5:
        return varied.crowd(rng, count)
    phrasing = choose(rng, tuple(p[0] for p in PHRASINGS), split)
    _, question, lead = PHRASINGS[phrasing]
    one = _value(rng)
    values = [digits(rng) if one.isdigit() else rng.choice(NOUNS) for _ in range(count)]
    keys = rng.sample(needle_keys(split), count)
    return [
        Quiz((_fact(phrasing, key, value),), question.format(key=key), value, lead.format(key=key))
        for key, value in zip(keys, values, strict=True)
    ]


@dataclass(frozen=True)
class Values:
    """One key with several values, at different places."""

    name: str = "values"
    values: int = 3

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        if _varied(rng, split):
            return varied.several_values(rng)
        key = rng.choice(needle_keys(split))
        values = [digits(rng, 3) for _ in range(self.values)]
        facts = tuple(f" One of the numbers of the {key} is {value}." for value in values)
        question = f"Which are the numbers of the {key}, in the order of the text?"
        return Quiz(facts, question, ", ".join(values), f"The numbers of the {key} are ")


@dataclass(frozen=True)
class Queries:
    """Several facts, all asked for in one question."""

    name: str = "queries"
    keys: int = 2

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        if _varied(rng, split):
            return varied.several_queries(rng)
        keys = rng.sample(needle_keys(split), self.keys)
        values = [digits(rng, 3) for _ in keys]
        facts = [_fact(0, key, value) for key, value in zip(keys, values, strict=True)]
        rng.shuffle(facts)
        question = f"What are the secret codes of the {' and the '.join(keys)}?"
        return Quiz(tuple(facts), question, ", ".join(values), "The secret codes are ")
