"""Combinations of settings, of which half run each time."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def combined(*settings: Sequence[Any]) -> list:
    """All combinations of settings for `parametrize`. Every second one is slow, like the fields of a chessboard: each value of a
    setting is in a fast one, and of three or more settings each pair of values."""
    return [
        pytest.param(*(value for _, value in chosen), marks=[pytest.mark.slow] if sum(i for i, _ in chosen) % 2 else [])
        for chosen in product(*map(enumerate, settings))
    ]
