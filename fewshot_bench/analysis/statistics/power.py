"""Power: the minimum detectable effect of a comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.analysis.statistics.effects import Spread
from fewshot_bench.analysis.statistics.paired import error_of
from fewshot_bench.analysis.statistics.ranks import gauss_legendre
from fewshot_bench.utils.errors import UsageError

NORMAL = 1e5
"""Degrees of freedom above which Student's t is taken for normal: 1e-5 of the result."""
TOLERANCE = 1e-10
# The part of the chi distribution that is left out at either end.
NEGLECTED = 1e-15
# So many nodes are enough over the estimates of a standard error.
ESTIMATES = 40

_Floats = NDArray[np.float64]


def detectable(
    spreads: Mapping[str, Spread],
    *,
    seeds: int | None = None,
    images: int | None = None,
    level: float = 0.05,
    power: float = 0.8,
) -> float:
    """The difference in points that `paired.compare_paired` finds with the given power.

    spreads: of a comparison (`Comparison.spreads`), or those of one data set. Smaller differences
    "can't be seen" with these seeds and images: more often than one time in five the test misses
    them. With `seeds` or `images` (per data set) the same is asked of a plan, from the variances
    that were observed.
    The variances come from few seeds, and are as often too small as too large: the answer is so
    much larger that over many such estimates the power is on average the one asked for
    (`noncentrality` with `estimated`). A single answer stays a rough one: with 3 seeds on one data
    set the difference that is truly found with that power may well be half or twice as large.
    A plan for one seed is for the conditional comparison of one. UsageError for more seeds planned
    from one, which says nothing about seed noise.
    """
    error, freedom = planned_error(spreads, seeds=seeds, images=images)
    _, estimated = planned_error(spreads)
    return error * noncentrality(freedom, level=level, power=power, estimated=estimated)


def planned_error(
    spreads: Mapping[str, Spread], *, seeds: int | None = None, images: int | None = None
) -> tuple[float, float]:
    """Standard error in points of such a comparison, and its degrees of freedom."""
    if not spreads:
        raise UsageError("no variances to plan from: expected those of at least one data set")
    return error_of([_planned(name, each, seeds, images) for name, each in spreads.items()])


def _planned(name: str, found: Spread, seeds: int | None, images: int | None) -> Spread:
    """The same variances with other numbers of seeds and images."""
    count = found.seeds if seeds is None else seeds
    size = found.images if images is None else images
    if count < 1 or size < 2:
        raise UsageError(f"plan for {count} seeds and {size} images: expected at least 1 and 2")
    if found.seed is None and count > 1:
        raise UsageError(
            f"plan for {count} seeds from one seed on '{name}': expected scores of two or more "
            "seeds, which say how much seeds differ"
        )
    if count == 1:
        return Spread(1, size, found.difference, None, found.image + found.interaction, 0.0)
    # Variances that came out negative are none: a plan must not live on that luck.
    seed, image = max(0.0, found.seed or 0.0), max(0.0, found.image)
    return dataclasses.replace(found, seeds=count, images=size, seed=seed, image=image)


def noncentrality(
    freedom: float, *, level: float = 0.05, power: float = 0.8, estimated: float = math.inf
) -> float:
    """By how many standard errors a difference must be off 0: the noncentral t's parameter.

    Two-sided test with Student's t of `freedom` degrees (Cohen 1988, Statistical power analysis).
    estimated: degrees of freedom of the standard error that it is multiplied with, where that is an
    estimate. The power then is the mean over such estimates, s = sigma chi / sqrt(estimated), with
    the difference in units of s: with 2 degrees, one power of 80 % in units of sigma would be 65 %.
    UsageError unless 0 < level < power < 1.
    """
    if not 0 < level < power < 1:
        raise UsageError(f"level {level} and power {power}: expected 0 < level < power < 1")
    missed = _missed(freedom, level)
    ratios, weights = _estimates(estimated)

    def too_small(shift: float) -> bool:
        return float(weights @ missed(shift * ratios)) > 1 - power

    far = 4.0
    while too_small(far):
        far *= 2
    near = 0.0
    while far - near > TOLERANCE * far:
        middle = (near + far) / 2
        near, far = (middle, far) if too_small(middle) else (near, middle)
    return (near + far) / 2


def _estimates(freedom: float) -> tuple[_Floats, _Floats]:
    """Estimated standard errors by the true one, chi / sqrt(freedom), and their weights."""
    if freedom > NORMAL:
        return np.ones(1), np.ones(1)
    nodes, weights = gauss_legendre(ESTIMATES)
    lowest, highest = _range(freedom)
    ratios = lowest + (highest - lowest) * nodes
    found = weights * (highest - lowest) * _density(freedom, ratios)
    return ratios, found / found.sum()


def _range(freedom: float) -> tuple[float, float]:
    from scipy import special

    found = np.sqrt(special.chdtri(freedom, [1 - NEGLECTED, NEGLECTED]) / freedom)
    return float(found[0]), float(found[1])


def _density(freedom: float, ratio: _Floats) -> _Floats:
    """Of chi / sqrt(freedom)."""
    from scipy import special

    half = freedom / 2
    constant = math.log(2) + half * math.log(half) - float(special.gammaln(half))
    found: _Floats = np.exp(constant + (freedom - 1) * np.log(ratio) - half * ratio**2)
    return found


def _missed(freedom: float, level: float) -> Callable[[_Floats], _Floats]:
    """The chances that a noncentral t lies within the test's limits, by its noncentrality (n,)."""
    from scipy import special

    limit = float(special.stdtrit(freedom, 1 - level / 2))
    if freedom > NORMAL:
        return lambda shifts: special.ndtr(limit - shifts) - special.ndtr(-limit - shifts)
    # Far below the lower limit scipy has no number for a chance of less than 1e-20.
    return lambda shifts: (
        special.nctdtr(freedom, shifts, limit)
        - np.nan_to_num(special.nctdtr(freedom, shifts, -limit))
    )
