"""How cost grows with length: cost = a · length^b, by least squares on logarithms."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..utils.errors import UserError


@dataclass(frozen=True)
class Fit:
    """b (1 for linear, 2 for quadratic growth), its standard error (None for two points), and a."""

    exponent: float
    error: float | None
    factor: float

    def at(self, length: float) -> float:
        return self.factor * length**self.exponent


def fit(lengths: Sequence[float], costs: Sequence[float]) -> Fit:
    """Fit a line to all points, equally weighted.

    Raises:
        UserError: fewer than two different lengths, a different number of costs, or a value that is not positive.
    """
    if len(lengths) != len(costs) or len(set(lengths)) < 2:
        raise UserError(f"{len(lengths)} lengths and {len(costs)} costs: an exponent needs two or more pairs.")
    if min(*lengths, *costs) <= 0:
        raise UserError(f"lengths={list(lengths)} and costs={list(costs)} must be positive.")
    x, y = [math.log(n) for n in lengths], [math.log(c) for c in costs]
    slope, intercept = statistics.linear_regression(x, y)
    error = None
    if len(x) > 2:
        residuals = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
        error = math.sqrt(residuals / (len(x) - 2) / sum((a - statistics.fmean(x)) ** 2 for a in x))
    return Fit(slope, error, math.exp(intercept))


def predict(lengths: Sequence[float], costs: Sequence[float], length: float) -> float | None:
    """The expected cost of a length, from the two longest measured lengths; None if there are fewer.

    A text costs a · length + b · length²: linear layers and attention. If no such a and b exist, a power of the length
    is used.
    """
    last = sorted(zip(lengths, costs, strict=True))[-2:]
    if len({n for n, _ in last}) < 2:
        return None
    (short, small), (long, large) = last
    square = (large / long - small / short) / (long - short)
    linear = small / short - square * short
    if min(square, linear) < 0:
        return fit([short, long], [small, large]).at(length)
    return linear * length + square * length**2
