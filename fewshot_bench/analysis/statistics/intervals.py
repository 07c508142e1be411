"""Means over seeds with Student's t-intervals, or the range of few; p-values of many tests."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import fixed, signed

CONFIDENCE = 0.95
# For two values the half-width is 12.7 standard errors, too wide to be informative.
FEWEST = 3
# Decimals of differences: percentages of twelve digits have ten.
_EXACT = 10
Run = TypeVar("Run", bound=tuple[int, int])


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` values, of which `least` and `most` are the extremes.

    half: half-width of the interval; None for fewer than `FEWEST` independent draws.
    """

    mean: float
    half: float | None
    n: int
    least: float
    most: float

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds around the mean: the interval, or the range if there is no interval."""
        if self.half is None:
            return self.least, self.most
        return self.mean - self.half, self.mean + self.half

    def around(self, digits: int = 2, *, sign: bool = False) -> str:
        """Text to follow the mean: `±0.31`, for two values `(23.92–38.98)`; empty for one.

        sign: format for differences, whose range is `(-0.30 to +2.70)`.
        """
        if self.half is not None:
            return f"±{self.half:.{digits}f}"
        if self.n < 2:
            return ""
        if sign:
            return f"({signed(self.least, digits)} to {signed(self.most, digits)})"
        return f"({fixed(self.least, digits)}–{fixed(self.most, digits)})"


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean, with a two-sided t-interval from `FEWEST` values on; None for no values."""
    n = len(values)
    if n == 0:
        return None
    least, most = min(values), max(values)
    mean = min(max(rounded(math.fsum(values) / n), least), most)
    if n < FEWEST:
        return Estimate(mean, None, n, least, most)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, quantile(n - 1) * math.sqrt(variance / n), n, least, most)


def estimate_runs(values: Mapping[Run, float]) -> Estimate | None:
    """The mean over runs by (split seed, training seed), several of which may share a seed.

    Runs of one support set are not independent draws: the support sets are, each with the mean of
    its runs, and training seeds that all of them share add a part of their own, as in `paired.py`.
    There is no interval from fewer than `FEWEST` support sets or shared training seeds. With one
    run per support set or a single support set, the runs are the draws, as in `estimate`.
    """
    whole = estimate(list(values.values()))
    splits = sorted({split for split, _ in values})
    if whole is None or len(splits) in (1, len(values)):
        return whole
    shared = shared_trainings(values)
    is_shared = len({train for _, train in values}) < len(values)
    if len(splits) < FEWEST or (is_shared and len(shared) < FEWEST):
        return replace(whole, half=None)
    sums = [math.fsum(v - whole.mean for (s, _), v in values.items() if s == own) for own in splits]
    parts = [_cluster_variance(sums, len(values))]
    freedoms = [len(splits) - 1]
    if is_shared:
        by_run = {(split, train): value for (split, train), value in values.items()}
        table = [[by_run[split, train] for train in shared] for split in splits]
        parts.append(_shared_variance(table))
        freedoms.append(len(shared) - 1)
    return replace(whole, half=_half_width(parts, freedoms))


def shared_trainings(runs: Collection[tuple[int, int]]) -> list[int]:
    """Training seeds with which all support sets were trained, sorted; runs: (split, training)."""
    splits = {split for split, _ in runs}
    return sorted(
        train
        for train in {own for _, own in runs}
        if all((split, train) in runs for split in splits)
    )


def _cluster_variance(sums: Sequence[float], count: int) -> float:
    """Variance of a mean of `count` values, from the sums of deviations in independent clusters."""
    clusters = len(sums)
    return clusters / (clusters - 1) * math.fsum(each**2 for each in sums) / count**2


def _shared_variance(table: Sequence[Sequence[float]]) -> float:
    """Variance of the mean of a table under a new draw of its columns, without that of its rows."""
    import numpy as np

    from fewshot_bench.analysis.statistics.effects import spread_of

    return max(0.0, spread_of(np.array(table)).image_part)


def _half_width(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    from scipy import special

    from fewshot_bench.analysis.statistics.freedom import pool

    t = float(special.stdtrit(pool(parts, freedoms), (1 + CONFIDENCE) / 2))
    return t * math.sqrt(math.fsum(parts))


def with_gaps(
    estimates: Mapping[int, Estimate], shots: Sequence[int]
) -> tuple[list[float], list[float], list[float]]:
    """Means, lower and upper bounds by shots, to draw; NaN for a missing number, never a guess."""
    gap = (math.nan, math.nan)
    bounds = [estimates[k].bounds if k in estimates else gap for k in shots]
    means = [estimates[k].mean if k in estimates else math.nan for k in shots]
    return means, [low for low, _ in bounds], [high for _, high in bounds]


def rounded(value: float) -> float:
    """Twelve digits: equal means of different values are the same, and print alike at xx.xx5."""
    return float(f"{value:.12g}")


@functools.cache
def quantile(freedom: int) -> float:
    """Student's t that leaves 2.5 % above it, for the given whole degrees of freedom.

    Solves A(t|v) = 0.95 by bisection over the angle arctan(t / sqrt(v)); written out because
    importing scipy takes longer than a whole table.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        if _two_sided(middle, freedom) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _two_sided(angle: float, freedom: int) -> float:
    """Probability of |t| below sqrt(v) tan(angle): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for step in range(2 + odd, freedom, 2):
        term *= math.cos(angle) ** 2 * (step - 1) / step
        total += term
    if not odd:
        return math.sin(angle) * total
    if freedom == 1:
        return 2 * angle / math.pi
    return 2 / math.pi * (angle + math.sin(angle) * total)


def pair_runs(
    ours: Mapping[Run, float],
    theirs: Mapping[Run, float],
    same: Mapping[Run, bool],
) -> Estimate | None:
    """Mean difference over common runs for which `same` is true (identical splits).

    The mappings are from (split seed, training seed).
    """
    runs = [run for run in ours if run in theirs and same.get(run, False)]
    # As `rounded`: equal differences of different values print alike, and zero is zero.
    return estimate_runs({run: round(ours[run] - theirs[run], _EXACT) for run in runs})


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down method, in the order given.

    Rejecting all below 5 % makes any false rejection with probability at most 5 %, whatever the
    dependence of the tests (Holm 1979). UsageError for a value that is not a probability.
    """
    for value in p:
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise UsageError(f"p-value {value}: expected a number from 0 to 1")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - step) * float(p[index])))
        adjusted[index] = largest
    return adjusted
