"""Means with Student's t-intervals over seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

CONFIDENCE = 0.95
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` values; `half` is the interval's half-width, None for a single value."""

    mean: float
    half: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean and the half-width of its two-sided t-interval; None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, quantile(n - 1) * math.sqrt(variance / n), n)


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


def paired(
    ours: Mapping[Key, float],
    theirs: Mapping[Key, float],
    same: Mapping[Key, bool],
) -> Estimate | None:
    """Mean difference over the seeds that both have, where `same` says that the splits agree."""
    seeds = [seed for seed in ours if seed in theirs and same.get(seed, False)]
    return estimate([ours[seed] - theirs[seed] for seed in seeds])
