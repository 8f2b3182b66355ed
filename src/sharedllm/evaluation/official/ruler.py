"""Tasks in the form of RULER (arXiv 2404.06654), generated for any tokenizer.

Templates, needles, counts and metric are those of NVIDIA/RULER (scripts/synthetic.yaml and scripts/data/synthetic). One
difference: names and words come from our own lists (RULER draws them from the package wonderwords), so results are not
directly comparable with published ones. Keys are from the split that nothing is trained on.
"""

import hashlib
import itertools
import math
import random
import re
import string
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from transformers import PreTrainedTokenizerBase

from ...data.synthetic import ADJECTIVES, needle_keys
from ...utils.errors import UserError
from ...utils.text import tokenize
from .base import Prompt, Record, Task, fill, templates

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {type} for {key} is: {value}."
# RULER's "long" settings of cwe begin at this length.
LONG = 4096
_SYLLABLES = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]


@dataclass(frozen=True)
class Needles:
    """hay: "noise", "essay" (the user's text, or noise without one) or "needle" (more needles). keys, values, queries: how many."""

    hay: str = "essay"
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1


GENERATED: dict[str, Needles | None] = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(value="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", "uuids", "uuids"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(keys=4, queries=4),
    "vt": None,
    "cwe": None,
    "fwe": None,
}
# Makes a prompt of any size, and the strings that its answer must contain.
Maker = Callable[[random.Random, int], tuple[Prompt, tuple[str, ...]]]


def ruler_task(
    name: str, tokenizer: PreTrainedTokenizerBase, length: int, cases: int, seed: int = 0, hay: str | None = None
) -> Task:
    """`cases` questions whose prompt and answer together have at most `length` tokens, with as much filler as fits.

    Args:
        tokenizer: counts the tokens, without special ones. hay: text in which to hide needles.

    Raises:
        UserError: the length is too short for the necessary content.
    """
    needles = GENERATED[name]
    family = "niah" if needles else name
    template = templates("ruler")[family]
    room = length - template["max_new_tokens"]
    makers: dict[str, Callable[[], Maker]] = {
        "niah": lambda: _niah(template["prompt"], needles, hay),
        "vt": lambda: _vt(template["prompt"]),
        "cwe": lambda: _cwe(template["prompt"], length),
        "fwe": lambda: _fwe(template["prompt"], room),
    }
    make, records, size = makers[family](), [], 0
    least = {"fwe": 53}.get(family, 0)
    for case in range(cases):
        key = f"{seed} {name} {length} {case}"

        def build(n: int, key: str = key) -> Prompt:
            return make(random.Random(key), n)[0]

        def count(n: int, build: Callable[[int], Prompt] = build) -> int:
            return tokenize(tokenizer, build(n).text).shape[1]

        size = largest(count, room, least, size)
        if size is None:
            raise UserError(
                f"{name} needs {count(least) + length - room:,} tokens at least, not {length:,}: ask for a greater length."
            )
        prompt, answers = make(random.Random(key), size)
        records.append(Record(str(case), prompt, (answers,)))
    about = {"generator": family, "settings": asdict(needles) if needles else {}, "seed": seed, "cases": cases}
    if needles and needles.hay == "essay":
        about["hay"] = "noise" if hay is None else hashlib.sha256(hay.encode()).hexdigest()
    return Task(name, records, template["metric"], template["max_new_tokens"], about=about, length=length)


def largest(count: Callable[[int], int], room: int, least: int = 0, guess: int = 0) -> int | None:
    """The largest size whose count is at most `room`, if counts grow with the size; None if even `least` is too large.

    The slope between two sizes decides where to look next, so few prompts have to be made and counted.
    """
    low, low_count = least, count(least)
    if low_count > room:
        return None
    high, step = None, 0
    guess = guess if guess > low else low + 16
    while high is None or high - low > 1:
        if (guess_count := count(guess)) <= room:
            slope = (guess_count - low_count) / (guess - low)
            low, low_count = guess, guess_count
        else:
            slope = (guess_count - low_count) / (guess - low)
            high = guess
        step += 1
        guess = low + max(1, int((room - low_count) / max(slope, 1e-3)))
        if high is not None:
            guess = (low + high) // 2 if step > 8 else min(guess, high - 1)
            guess = max(guess, low + 1)
    return low


def _niah(template: str, needles: Needles, hay: str | None) -> Maker:
    if needles.queries * needles.values == 1:
        for old, new in (("Some", "A"), ("are all", "is"), ("are", "is")):
            template = template.replace(old, new)
    kind = needles.value.removesuffix("s") if needles.queries * needles.values == 1 else needles.value
    essay = _sentences(hay) if hay is not None and needles.hay == "essay" else None

    def make(rng: random.Random, size: int) -> tuple[Prompt, tuple[str, ...]]:
        keys: dict[str, list[str]] = {}
        while len(keys) < needles.keys:
            keys.setdefault(_drawn(rng, needles.key), [_drawn(rng, needles.value) for _ in range(needles.values)])
        facts = [NEEDLE.format(type=needles.value, key=k, value=v) for k, values in keys.items() for v in values]
        rng.shuffle(facts)
        asked = rng.sample(list(keys), needles.queries)
        places = [rng.random() for _ in facts]
        if needles.hay == "needle":
            others = (_other(rng, needles.key, keys) for _ in range(size))
            filler = [NEEDLE.format(type=needles.value, key=k, value=_drawn(rng, needles.value)) for k in others]
        else:
            filler = [NOISE] * size if essay is None else list(itertools.islice(itertools.cycle(essay), size))
        for place, fact in zip(sorted(places, reverse=True), facts, strict=True):
            filler.insert(round(place * size), fact)
        query = asked[0] if len(asked) == 1 else f"{', '.join(asked[:-1])}, and {asked[-1]}"
        context = ("\n" if essay is None else " ").join(filler)
        return fill(template, context, type=kind, query=query), tuple(v for key in asked for v in keys[key])

    return make


def _vt(template: str, hops: int = 4) -> Maker:
    """One chain of assignments among noise, after a worked example with shorter names, as in RULER."""

    def prompt(rng: random.Random, size: int, letters: int) -> tuple[Prompt, list[str]]:
        names: dict[str, None] = {}
        while len(names) <= hops:
            names["".join(rng.choices(string.ascii_uppercase, k=letters))] = None
        chain, value = list(names), str(rng.randint(10_000, 99_998))
        lines = [f"VAR {chain[0]} = {value}"] + [f"VAR {b} = VAR {a} " for a, b in itertools.pairwise(chain)]
        filler = [NOISE] * size
        places = sorted(round(rng.random() * size) for _ in lines)
        for at, line in reversed(list(zip(places, lines, strict=True))):
            filler.insert(at, line)
        return fill(template, "\n".join(filler), query=value, count=str(len(chain))), chain

    def make(rng: random.Random, size: int) -> tuple[Prompt, tuple[str, ...]]:
        example, shown = prompt(rng, 5, 3)
        own, chain = prompt(rng, size, 5)
        return replace(own, before=f"{example.text} {' '.join(shown)}\n\n{own.before}"), tuple(chain)

    return make


def _cwe(template: str, length: int) -> Maker:
    """Ten frequent words among rare ones, in a numbered list, after a worked example."""
    often, seldom, (example_words, example_often, example_seldom) = (
        (30, 3, (40, 10, 3)) if length >= LONG else (6, 1, (20, 3, 1))
    )

    def listed(rng: random.Random, words: Sequence[str], often: int, seldom: int) -> str:
        entries = [*words[:10]] * often + [*words[10:]] * seldom
        rng.shuffle(entries)
        return _numbered(entries)

    def make(rng: random.Random, size: int) -> tuple[Prompt, tuple[str, ...]]:
        shown = _made_up(rng, example_words)
        example = fill(template, listed(rng, shown, example_often, example_seldom)).text
        words = _made_up(rng, 10 + size)
        own = fill(template, listed(rng, words, often, seldom))
        before = f"{example} {_numbered(shown[:10])}\n{own.before}"
        return replace(own, before=before), tuple(words[:10])

    return make


def _fwe(template: str, room: int) -> Maker:
    """Coded words from a zeta distribution with α = 2; the most frequent is a row of dots, and the next three are the
    answer."""
    vocabulary = max(room // 50, 5)

    def make(rng: random.Random, size: int) -> tuple[Prompt, tuple[str, ...]]:
        words: dict[str, None] = {"...": None}
        while len(words) < vocabulary:
            words["".join(rng.choices(string.ascii_lowercase, k=6))] = None
        share = size / (math.pi**2 / 6)
        entries = [word for rank, word in enumerate(words, start=1) for _ in range(int(share / rank**2))]
        rng.shuffle(entries)
        return fill(template, " ".join(entries)), tuple(list(words)[1:4])

    return make


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


def _made_up(rng: random.Random, count: int) -> list[str]:
    """Different words of three syllables."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choices(_SYLLABLES, k=3))] = None
    return list(words)


def _drawn(rng: random.Random, kind: str) -> str:
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return "-".join([rng.choice(ADJECTIVES), *rng.choice(needle_keys("test")).split()])


def _other(rng: random.Random, kind: str, taken: dict[str, list[str]]) -> str:
    """A key that no question asks about."""
    while (key := _drawn(rng, kind)) in taken:
        pass
    return key


def _sentences(text: str) -> list[str]:
    found = [part for part in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if part]
    if not found:
        raise UserError("the haystack is empty: give a text with sentences.")
    return found
