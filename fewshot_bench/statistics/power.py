"""How large a difference must be to be seen: the minimum detectable effect of a comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from fewshot_bench.errors import UsageError
from fewshot_bench.statistics.effects import Spread
from fewshot_bench.statistics.paired import error_of

NORMAL = 1e5
"""Degrees of freedom above which Student's t is taken for normal: 1e-5 of the result."""


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
    The variances come from few seeds, so the answer is a rough one: with 3 seeds on one data set
    the truth may well be half or twice as large.
    A plan for one seed is for the conditional comparison of one. UsageError for more seeds planned
    from one, which says nothing about seed noise.
    """
    if not spreads:
        raise UsageError("no variances to plan from: expected those of at least one data set")
    planned = [_planned(name, each, seeds, images) for name, each in spreads.items()]
    error, freedom = error_of(planned)
    return error * noncentrality(freedom, level=level, power=power)


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
    return dataclasses.replace(found, seeds=count, images=size)


def noncentrality(freedom: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """By how many standard errors a difference must be off 0: the noncentral t's parameter.

    Two-sided test with Student's t of `freedom` degrees (Cohen 1988, Statistical power analysis).
    UsageError unless 0 < level < power < 1.
    """
    from scipy import optimize

    if not 0 < level < power < 1:
        raise UsageError(f"level {level} and power {power}: expected 0 < level < power < 1")
    missed = _missed(freedom, level)
    far = 4.0
    while missed(far) > 1 - power:
        far *= 2
    found = optimize.brentq(lambda shift: missed(shift) - (1 - power), 0.0, far, xtol=1e-12)
    return float(found)


def _missed(freedom: float, level: float) -> Callable[[float], float]:
    """The chance that a noncentral t lies within the test's limits, by its noncentrality.

    Integrated over the estimated standard error by the true one, which is chi / sqrt(freedom):
    scipy's own noncentral t answers nan for some few degrees of freedom.
    """
    from scipy import integrate, special

    limit = float(special.stdtrit(freedom, 1 - level / 2))

    def given(shift: float, ratio: float) -> float:
        inside = special.ndtr(limit * ratio - shift) - special.ndtr(-limit * ratio - shift)
        return float(inside)

    if freedom > NORMAL:
        return lambda shift: given(shift, 1.0)
    half = freedom / 2
    constant = math.log(2) + half * math.log(half) - float(special.gammaln(half))

    def integrand(ratio: float, shift: float) -> float:
        logarithm = constant + (freedom - 1) * math.log(ratio) - half * ratio**2
        return math.exp(logarithm) * given(shift, ratio)

    ends = [math.sqrt(float(special.chdtri(freedom, q)) / freedom) for q in (1 - 1e-15, 1e-15)]
    tolerance = {"epsabs": 1e-12, "epsrel": 1e-12, "limit": 200}

    def missed(shift: float) -> float:
        found, _ = integrate.quad(integrand, *ends, args=(shift,), **tolerance)
        return float(found)

    return missed
