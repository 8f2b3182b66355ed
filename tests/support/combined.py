"""Combinations of settings, of which some run each time, and all in `make test-all`."""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

import pytest

from sharedllm.model.families import FAMILIES
from sharedllm.model.families.family import Family


def _wiring(entry: Family) -> tuple:
    """The functions and names of a family, without what is made for it alone."""
    return tuple(repr(getattr(entry, f.name)) for f in fields(entry) if f.name not in ("combine", "check", "tested"))


# The first family of each wiring; and a few that differ most, for what says little about wiring.
KINDS = set({_wiring(entry): name for name, entry in reversed(FAMILIES.items())}.values())
FEW = (
    "cohere2",  # attention and MLP in parallel, full layers without positions, scaled logits
    "gemma3_text",  # four norms, two rotations
    "gpt_oss",  # sinks, experts, eager
    "granite",  # factors
    "hunyuan_v1_dense",  # norms after RoPE
    "olmo2",  # norms after attention
    "phi3",  # one projection for queries, keys and values
    "stablelm",  # a norm for each head
)


def combined(*settings: Sequence[Any], fast: Callable[[Any], bool] = lambda first: True) -> list:
    """All combinations of settings for `parametrize`, most of them slow.

    Of one or two settings every second one is fast, like the fields of a chessboard, so that each value of a setting is in one. Of more,
    each value of the first and longest one is in a fast one, and the others take turns.

    fast: of the first setting, which values may be in one.
    """
    whole = range(len(settings[0]))
    chosen = {tuple((i + n * (i // len(s))) % len(s) for n, s in enumerate(settings)) for i in whole}
    if len(settings) < 3 or len(settings[0]) < 3:
        chosen = {places for places in product(*map(range, map(len, settings))) if sum(places) % 2 == 0}
    return [
        _row(*values, fast=places in chosen and fast(values[0]))
        for places, values in zip(product(*map(range, map(len, settings))), product(*settings), strict=True)
    ]


def rarely(*values: Any) -> list:
    """Values for `parametrize` that are slow, beside others that are not."""
    return [_row(value, fast=False) for value in values]


def kinds(cases: Iterable[Any], fast: Container[str] = KINDS) -> list:
    """Families for `parametrize`, or cases that begin with one: by default, of those that are wired alike the first one of the table
    is fast."""
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [_row(*row, fast=row[0] in fast) for row in rows]


def _row(*values: Any, fast: bool) -> Any:
    return pytest.param(*values, marks=[] if fast else [pytest.mark.slow])
