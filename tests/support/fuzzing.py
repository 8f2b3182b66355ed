"""What fuzz tests share: how many cases, a seed for each, limits of time, and what is wrong on purpose.

A case's random numbers come from the seed and its number alone; a failure names both.

SHAREDLLM_FUZZ        scales the number of cases of slow tests: 0.1 for a tenth
SHAREDLLM_FUZZ_SEED   another seed gives other cases
"""

import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SEED = int(os.environ.get("SHAREDLLM_FUZZ_SEED", "0"))
MOST_SHOWN = 10


def counts(few: int, full: int):
    """Parametrises a test with its number of cases, `count`: few, and in slow runs the full number."""
    many = max(1, round(full * float(os.environ.get("SHAREDLLM_FUZZ", "1"))))
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


def run_cases(what: str, count: int, case: Callable[[random.Random, list[str]], None]) -> None:
    """Run cases one after another, and fail with all that failed (at most ten).

    Args:
        case: called with a random generator of its own, and with a list for lines that say what it does.
    """
    failed: list[str] = []
    for number in range(count):
        did: list[str] = []
        try:
            case(random.Random(f"{what} {SEED} {number}"), did)
        except (Exception, SystemExit):
            failed.append(f"case {number} of seed {SEED}: {', '.join(did)}\n{traceback.format_exc()}")
            if len(failed) == MOST_SHOWN:
                break
    print(f"{what}: {number + 1} cases of seed {SEED}, {len(failed)} failed")
    assert not failed, "\n\n".join(failed)


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Fails what hangs; only in the main thread."""

    def late(*_: Any) -> None:
        raise AssertionError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def deep(levels: int) -> Any:
    """A list in a list in a list …"""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


# Values that a JSON field should not have.
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 2**63, 10**30, -(2**63), 0.5, 1e308, float("nan"), float("inf"),
    "", " ", "a", "0", "\ud800", "\x00", "é" * 300, "../../x", "/etc/passwd", "%s%n", [], [[]], {}, {"a": 1}, [None],
    ["a"] * 50, deep(50), {"": {"": {}}},
]  # fmt: skip


def mutated(rng: random.Random, value: Any, odd: list[Any] | None = None) -> Any:
    """A JSON value with one thing in it changed: a value replaced, a field or entry removed, doubled or added."""
    odd = ODD if odd is None else odd
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(sorted(value))
        changed = dict(value)
        match rng.random():
            case r if r < 0.12:
                del changed[name]
            case r if r < 0.2:
                changed[rng.choice(["x", "", "name", "\ud800", name.upper()])] = rng.choice(odd)
            case _:
                changed[name] = mutated(rng, value[name], odd)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        match rng.random():
            case r if r < 0.15:
                return value[:place] + value[place + 1 :]
            case r if r < 0.3:
                return value[:place] + [value[place]] + value[place:]
            case r if r < 0.4:
                return rng.sample(value, len(value))
            case _:
                return [*value[:place], mutated(rng, value[place], odd), *value[place + 1 :]]
    if type(value) is int and rng.random() < 0.3:
        return value + rng.choice([-1, 1, 16, 10**6])
    if isinstance(value, str) and value and rng.random() < 0.3:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice(["0", "f", "x", "", "\u202e", "\udfff"]) + value[place + 1 :]
    return rng.choice(odd)
