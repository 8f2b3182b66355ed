"""Questions that need several facts: variables that pass on a value, and events to count."""

import random
from dataclasses import dataclass
from itertools import pairwise

from ..synthetic import needle_keys
from .base import Quiz, Split
from .vocabulary import digits

# Letters of a variable's name, by split.
LETTERS = {"train": "bcdfghjk", "validation": "lmnp", "test": "qrst"}


@dataclass(frozen=True)
class Variables:
    """A value passed on from variable to variable, `least` to `hops` times, next to another chain."""

    name: str = "variables"
    hops: int = 4
    least: int = 1

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        names = [f"{a}{b}" for a in LETTERS[split] for b in range(10, 100)]
        hops = rng.randint(self.least, self.hops)
        chains = [rng.sample(names, hops + 1) for _ in range(2)]
        while set(chains[0]) & set(chains[1]):
            chains[1] = rng.sample(names, hops + 1)
        values = [digits(rng), digits(rng)]
        lines = [self._lines(chain, value) for chain, value in zip(chains, values, strict=True)]
        # Each chain keeps its order; the two are interleaved at random.
        order = [0] * len(lines[0]) + [1] * len(lines[1])
        rng.shuffle(order)
        facts = tuple(lines[which].pop(0) for which in order)
        last = chains[0][-1]
        return Quiz(facts, f"What is the value of VAR {last}?", values[0], f"VAR {last} = ")

    @staticmethod
    def _lines(chain: list[str], value: str) -> list[str]:
        first = f" VAR {chain[0]} = {value}."
        return [first] + [f" VAR {b} = VAR {a}." for a, b in pairwise(chain)]


@dataclass(frozen=True)
class Counting:
    """An event that happens up to `most` times, among the same events of others."""

    name: str = "counting"
    most: int = 5

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        asked, other = rng.sample(needle_keys(split), 2)
        times = rng.randint(1, self.most)
        facts = [f" The bell of the {asked} rang."] * times
        facts += [f" The bell of the {other} rang."] * rng.randint(1, self.most)
        rng.shuffle(facts)
        question = f"How many times did the bell of the {asked} ring?"
        return Quiz(tuple(facts), question, str(times), "Number of times: ")
