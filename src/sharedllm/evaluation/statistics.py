"""Intervals: cluster bootstrap over documents for means, Wilson for shares.

Not by scipy: its bootstrap has no clusters of different sizes, and its Wilson interval takes whole successes only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..utils.errors import UserError

DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, from n values."""

    mean: float
    low: float
    high: float
    n: int


def cluster_bootstrap(values: Mapping[str, Sequence[float]], seed: int = 0) -> Estimate:
    """Mean over documents of their means. Documents are resampled, because places in one document are not independent.

    Args:
        values: by document.
    """
    means = np.array([np.mean(v) for v in values.values()])
    drawn = np.random.default_rng(seed).choice(means, (DRAWS, len(means))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(means.mean()), float(low), float(high), sum(map(len, values.values())))


def wilson(values: Sequence[float]) -> Estimate:
    """Share of successes with Wilson's interval; values between 0 and 1 count partially."""
    n, z = len(values), 1.959964
    share = float(np.mean(values))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def by_document(records: Sequence[Mapping], column: str) -> dict[str, list[float]]:
    """Values of a column, by document, from the records that have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        if column not in record["values"]:
            continue
        values.setdefault(record["document"], []).append(record["values"][column])
    return values


def paired_difference(ours: Sequence[Mapping], theirs: Sequence[Mapping], column: str, seed: int = 0) -> Estimate:
    """Ours minus theirs on the same texts, by cluster bootstrap over documents.

    Raises:
        UserError: the records are of different texts.
    """
    keys = [[{k: v for k, v in r.items() if k != "values"} for r in records] for records in (ours, theirs)]
    if keys[0] != keys[1]:
        raise UserError("the two systems scored different texts: evaluate them with the same settings.")
    differences: dict[str, list[float]] = {}
    for a, b in zip(ours, theirs, strict=True):
        if column not in a["values"]:
            continue
        differences.setdefault(a["document"], []).append(a["values"][column] - b["values"][column])
    return cluster_bootstrap(differences, seed)


def pooled_bootstrap(values: Mapping[str, Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of all values, each counted once. Groups are resampled, because questions about one story are not independent.

    A single group is resampled value by value.

    Args:
        values: by group.
    """
    groups = list(values.values())
    if len(groups) == 1:
        groups = [[value] for value in groups[0]]
    sums, sizes = np.array([np.sum(v) for v in groups]), np.array([len(v) for v in groups])
    drawn = np.random.default_rng(seed).integers(len(groups), size=(DRAWS, len(groups)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high), int(sizes.sum()))
