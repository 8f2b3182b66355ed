"""Checkable facts to hide in long text: needles whose answers are digits.

A needle is a sentence "The secret code of the silver falcon is 48213." and a question whose answer is the digits. Keys
of the three splits are disjoint, so a model is never tested on a key that it was trained on.
"""

import random
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation", "test"]

ADJECTIVES = (
    "silver golden quiet hidden broken ancient gentle crimson frozen hollow bright wandering "
    "distant humble noble patient restless secret simple sleeping solemn stubborn sudden tender "
    "twisted velvet violet weary wild winter wooden young faithful fallen famous foreign "
    "green heavy idle iron little lonely lost merry narrow old pale proud rapid rich"
).split()
NOUNS = (
    "falcon river garden castle soldier window mountain lantern harbour forest captain mirror "
    "bridge candle doctor engine farmer hammer island kitchen lady machine needle orchard palace "
    "queen ribbon sailor temple uncle valley widow wolf anchor basket church desert eagle "
    "feather guest horse jewel king letter master nurse ocean pilot rose ship"
).split()


@dataclass(frozen=True)
class Needle:
    """A fact and the question for it. `statement` is hidden in the text; `question` ends right before `answer`."""

    key: str
    answer: str

    @property
    def statement(self) -> str:
        return f" The secret code of the {self.key} is {self.answer}."

    @property
    def question(self) -> str:
        return f"\nQuestion: What is the secret code of the {self.key}?\nAnswer: The secret code of the {self.key} is "


def needle_keys(split: Split) -> list[str]:
    """All "adjective noun" keys of a split; every pair belongs to one split (8 : 1 : 1)."""
    wanted = {"train": range(8), "validation": range(8, 9), "test": range(9, 10)}[split]
    return [f"{a} {n}" for i, a in enumerate(ADJECTIVES) for j, n in enumerate(NOUNS) if (3 * i + 7 * j) % 10 in wanted]


def make_needles(rng: random.Random, count: int, split: Split = "train", digits: int = 5) -> list[Needle]:
    """`count` needles with different keys and random `digits`-digit answers."""
    keys = rng.sample(needle_keys(split), count)
    return [Needle(key, "".join(rng.choice("0123456789") for _ in range(digits))) for key in keys]
