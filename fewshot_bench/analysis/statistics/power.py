"""Power: the minimum detectable effect of a comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.analysis.statistics.effects import SET, Spread
from fewshot_bench.analysis.statistics.paired import error_of
from fewshot_bench.analysis.statistics.ranks import gauss_legendre
from fewshot_bench.utils.errors import UsageError

NORMAL = 1e5
"""Degrees of freedom above which Student's t is replaced by the normal: error below 1e-5."""
TOLERANCE = 1e-10
# Probability of the chi distribution neglected at either end.
NEGLECTED = 1e-15
# Quadrature nodes, enough to integrate over the estimates of a standard error.
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

    spreads: those of a comparison (`Comparison.spreads`), possibly of a single data set. With these
    seeds and images, the test misses smaller differences more often than one time in five (for
    power 0.8). seeds, images: planned numbers per data set, evaluated with the observed variances.
    Variances from few seeds are as often too small as too large: the result is enlarged so that
    the power averaged over many such estimates is the requested one (`noncentrality` with
    `estimated`). A single result remains rough: with 3 seeds on one data set, the difference
    actually found with that power may well be half or twice as large.
    A plan for one seed is a plan for the conditional comparison. UsageError for several seeds
    planned from one seed, which carries no information about seed noise.
    """
    error, freedom = planned_error(spreads, seeds=seeds, images=images)
    _, estimated = planned_error(spreads)
    return error * noncentrality(freedom, level=level, power=power, estimated=estimated)


def planned_error(
    spreads: Mapping[str, Spread], *, seeds: int | None = None, images: int | None = None
) -> tuple[float, float]:
    """Standard error in points of a planned comparison, and its degrees of freedom."""
    if not spreads:
        raise UsageError("no variances to plan from: expected those of at least one data set")
    return error_of([_plan_spread(name, each, seeds, images) for name, each in spreads.items()])


def _plan_spread(name: str, spread: Spread, seeds: int | None, images: int | None) -> Spread:
    """The spread with the planned numbers of seeds and images."""
    count = spread.seeds if seeds is None else seeds
    size = spread.images if images is None else images
    if count < 1 or size < (1 if spread.unit == SET else 2):
        raise UsageError(f"plan for {count} seeds and {size} images: expected at least 1 and 2")
    if spread.seed is None and count > 1:
        raise UsageError(
            f"plan for {count} seeds from one seed on '{name}': expected scores of two or more "
            "seeds, which say how much seeds differ"
        )
    if count == 1:
        image = spread.image + spread.interaction
        return Spread(1, size, spread.difference, None, image, 0.0, unit=spread.unit)
    # A plan must not profit from variance estimates that came out negative by chance.
    seed, image = max(0.0, spread.seed or 0.0), max(0.0, spread.image)
    return dataclasses.replace(spread, seeds=count, images=size, seed=seed, image=image)


def noncentrality(
    freedom: float, *, level: float = 0.05, power: float = 0.8, estimated: float = math.inf
) -> float:
    """The required difference in standard errors: noncentrality parameter of the noncentral t.

    Two-sided test with Student's t of `freedom` degrees (Cohen 1988, Statistical power analysis).
    estimated: degrees of freedom of the standard error that the result is multiplied with, if that
    is an estimate. Power is then the mean over such estimates, s = sigma chi / sqrt(estimated),
    with the difference in units of s: with 2 degrees, a power of 80 % in units of sigma would
    really be 65 %.
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
    """Ratios of estimated to true standard error, chi / sqrt(freedom), and their weights."""
    if freedom > NORMAL:
        return np.ones(1), np.ones(1)
    nodes, weights = gauss_legendre(ESTIMATES)
    lowest, highest = _range(freedom)
    ratios = lowest + (highest - lowest) * nodes
    masses = weights * (highest - lowest) * _density(freedom, ratios)
    return ratios, masses / masses.sum()


def _range(freedom: float) -> tuple[float, float]:
    from scipy import special

    ends = np.sqrt(special.chdtri(freedom, [1 - NEGLECTED, NEGLECTED]) / freedom)
    return float(ends[0]), float(ends[1])


def _density(freedom: float, ratio: _Floats) -> _Floats:
    """Density of chi / sqrt(freedom)."""
    from scipy import special

    half = freedom / 2
    constant = math.log(2) + half * math.log(half) - float(special.gammaln(half))
    density: _Floats = np.exp(constant + (freedom - 1) * np.log(ratio) - half * ratio**2)
    return density


def _missed(freedom: float, level: float) -> Callable[[_Floats], _Floats]:
    """Function from noncentralities (n,) to the probabilities that the test misses them."""
    from scipy import special

    limit = float(special.stdtrit(freedom, 1 - level / 2))
    if freedom > NORMAL:
        return lambda shifts: special.ndtr(limit - shifts) - special.ndtr(-limit - shifts)
    # scipy returns NaN for probabilities below 1e-20 far below the lower limit.
    return lambda shifts: (
        special.nctdtr(freedom, shifts, limit)
        - np.nan_to_num(special.nctdtr(freedom, shifts, -limit))
    )
