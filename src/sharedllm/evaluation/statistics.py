"""Intervals: Student's t over documents for means, Wilson for shares, also of questions that are grouped by text; Holm's
correction for a table of differences.

Wilson's not by scipy, which takes whole successes only. A bootstrap over five documents gives too short an interval, so it serves
only where groups of many questions differ in size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from ..utils.errors import UserError

DRAWS = 10_000
# Quantile of the normal distribution for 95 %.
Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, from n values.

    low, high   NaN if there is one document or group only
    p           two-sided, that the number is 0; NaN where it was not computed
    """

    mean: float
    low: float
    high: float
    n: int
    p: float = math.nan

    @property
    def percent(self) -> str:
        """A share in per cent, with its interval if there is one."""
        interval = "" if math.isnan(self.low) else f" [{self.low:.0%}, {self.high:.0%}]"
        return f"{self.mean:.0%}{interval}"


def over_documents(values: Mapping[str, Sequence[float]], trainings: Sequence[float] = ()) -> Estimate:
    """Mean over documents of their means, with Student's t interval. Places in one document are not independent, so each
    document counts once.

    Args:
        values: by document; of several trainings, their means.
        trainings: the number of each training, if there are several. How much they differ is added to the variance, and the
            degrees of freedom follow Welch and Satterthwaite.
    """
    means = np.array([np.mean(v) for v in values.values()])
    parts = [group for group in (means, np.asarray(trainings)) if len(group) > 1]
    mean, count = float(means.mean()), sum(map(len, values.values()))
    if len(means) < 2:
        return Estimate(mean, math.nan, math.nan, count)
    variances = [float(group.var(ddof=1)) / len(group) for group in parts]
    spread = math.sqrt(sum(variances))
    if not spread:
        return Estimate(mean, mean, mean, count, float(mean == 0))
    freedom = spread**4 / sum(v**2 / (len(group) - 1) for v, group in zip(variances, parts, strict=True))
    half = float(stdtrit(freedom, 0.975)) * spread
    return Estimate(mean, mean - half, mean + half, count, 2 * float(stdtr(freedom, -abs(mean) / spread)))


def holm(p: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses are refused if none may be refused wrongly with more than this chance (Holm 1979). NaN: never."""
    order = sorted((each, place) for place, each in enumerate(p) if not math.isnan(each))
    refused = [False] * len(p)
    for rank, (each, place) in enumerate(order):
        if each > level / (len(order) - rank):
            break
        refused[place] = True
    return refused


def sign_test(better: int, worse: int) -> float:
    """How often chance alone gives counts of better and worse that are at least as far apart, in either direction."""
    n = better + worse
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n)


def wilson(values: Sequence[float], independent: float | None = None) -> Estimate:
    """Share of successes with Wilson's interval; values between 0 and 1 count partially.

    Args:
        independent: how many independent values they are worth; default: all of them.
    """
    n, z = independent or len(values), Z
    share = float(np.mean(values))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), len(values))


def share_over_groups(values: Mapping[str, Sequence[float]]) -> Estimate:
    """Share of successes of all values, each counted once, where those of a group, such as questions about one text, are not
    independent: Wilson's interval for as many independent values as have the same variance, fewer for few groups (Korn and
    Graubard 1998, Survey Methodology 24, 193).

    With one group nothing is known of how groups differ: low and high are NaN.

    Args:
        values: by group; between 0 and 1.
    """
    groups = list(values.values())
    every = [value for group in groups for value in group]
    if all(len(group) == 1 for group in groups):
        return wilson(every)
    n, share, count = len(every), float(np.mean(every)), len(groups)
    if count == 1:
        return Estimate(share, math.nan, math.nan, n)
    spread = sum((sum(group) - share * len(group)) ** 2 for group in groups) * count / (count - 1) / n**2
    alone = share * (1 - share) / n
    # Where all values are the same, nothing tells that they depend on each other.
    worth = n * alone / spread if alone and spread else n
    return wilson(every, min(n, worth * (Z / float(stdtrit(count - 1, 0.975))) ** 2))


def by_document(records: Sequence[Mapping], column: str) -> dict[str, list[float]]:
    """Values of a column, by document, from the records that have it."""
    values: dict[str, list[float]] = {}
    for record in records:
        if column not in record["values"]:
            continue
        values.setdefault(record["document"], []).append(record["values"][column])
    return values


def paired_difference(
    ours: Sequence[Mapping], theirs: Sequence[Mapping], column: str, trainings: Sequence[float] = ()
) -> Estimate:
    """Ours minus theirs on the same texts, see `over_documents`.

    Args:
        trainings: the difference in each training, if there are several.

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
    return over_documents(differences, trainings)


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
