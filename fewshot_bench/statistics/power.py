"""How large a difference must be to be seen: the minimum detectable effect of a comparison."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fewshot_bench.errors import UsageError
from fewshot_bench.statistics.effects import Spread
from fewshot_bench.statistics.paired import error_of
from fewshot_bench.statistics.quadrature import gauss_legendre

NORMAL = 1e5
"""Degrees of freedom above which Student's t is taken for normal: 1e-5 of the result."""
TOLERANCE = 1e-12
# What is left out of the chi distribution at either end, and of the normal one beyond so many.
NEGLECTED, FARTHEST, NODES = 1e-15, 9.0, 200


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
    error, freedom = planned_error(spreads, seeds=seeds, images=images)
    return error * noncentrality(freedom, level=level, power=power)


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


def noncentrality(freedom: float, *, level: float = 0.05, power: float = 0.8) -> float:
    """By how many standard errors a difference must be off 0: the noncentral t's parameter.

    Two-sided test with Student's t of `freedom` degrees (Cohen 1988, Statistical power analysis).
    UsageError unless 0 < level < power < 1.
    """
    if not 0 < level < power < 1:
        raise UsageError(f"level {level} and power {power}: expected 0 < level < power < 1")
    missed = _missed(freedom, level)
    far = 4.0
    while missed(far) > 1 - power:
        far *= 2
    near = 0.0
    while far - near > TOLERANCE * far:
        middle = (near + far) / 2
        near, far = (middle, far) if missed(middle) > 1 - power else (near, middle)
    return (near + far) / 2


def _missed(freedom: float, level: float) -> Callable[[float], float]:
    """The chance that a noncentral t lies within the test's limits, by its noncentrality.

    Integrated over the estimated standard error by the true one, which is chi / sqrt(freedom):
    scipy's own noncentral t answers nan for some few degrees of freedom. (Its `quad` and `brentq`
    would do, and take longer to import than a whole table takes.)
    """
    from scipy import special

    limit = float(special.stdtrit(freedom, 1 - level / 2))

    def given(shift: float, ratio: Any) -> Any:
        return special.ndtr(limit * ratio - shift) - special.ndtr(-limit * ratio - shift)

    if freedom > NORMAL:
        return lambda shift: float(given(shift, 1.0))
    half = freedom / 2
    constant = math.log(2) + half * math.log(half) - float(special.gammaln(half))
    lowest, highest = np.sqrt(special.chdtri(freedom, [1 - NEGLECTED, NEGLECTED]) / freedom)
    nodes, weights = gauss_legendre(NODES)

    def missed(shift: float) -> float:
        # Below and above these ratios the chance is 0 and 1.
        start = max(lowest, (shift - FARTHEST) / limit)
        end = max(start, min(highest, (shift + FARTHEST) / limit))
        ratio = start + (end - start) * nodes
        density = np.exp(constant + (freedom - 1) * np.log(ratio) - half * ratio**2)
        between = (end - start) * (weights @ (density * given(shift, ratio)))
        return float(between + special.chdtrc(freedom, freedom * end**2))

    return missed
