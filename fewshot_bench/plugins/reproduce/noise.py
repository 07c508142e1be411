"""Noise of a difference between two honest runs of one cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.statistics.intervals import FEWEST, quantile

# Two-sided 95 % of the normal distribution.
NORMAL = 1.959964
# Share of test images near enough to a boundary between classes that other arithmetic (device,
# precision, decoder) decides about them: two runs of zero-shot CLIP with one prompt differ by 0.2
# points on StanfordCars, which this share explains (docs/reproduce.md).
UNDECIDED = 0.01


@dataclass(frozen=True, slots=True)
class Parts:
    """Components of the noise of one difference; variances in squared points.

    seeds: of the difference of the two means, from the spread over seeds; None where the spread is
        not known. freedom: the degrees of freedom of that estimate.
    images: of test images that other arithmetic decides about. rounding: of the printed number.
    """

    seeds: float | None
    freedom: float
    images: float
    rounding: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Values over seeds: how many, and their standard deviation; None where it is not known."""

    n: int
    sd: float | None


def spread(values: Sequence[float]) -> Spread:
    """The standard deviation over seeds (n - 1 in the denominator); None for one seed."""
    n = len(values)
    if n < 2:
        return Spread(n, None)
    mean = math.fsum(values) / n
    return Spread(n, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)))


def parts(ours: Spread, paper: Spread, images: int, decimals: int, *, random: bool) -> Parts:
    """The parts for one cell.

    ours, paper: the two sides; a paper that prints no standard deviation is taken to have ours.
    images: test images, the same on both sides, so that which images they are is no noise.
    decimals: of the printed number. random: False where seeds change nothing (zero-shot).
    """
    wobble = UNDECIDED * 100**2 / images if images else 0.0
    rounding = (0.5 * 10.0**-decimals) ** 2 / 3
    if not random:
        return Parts(0.0, math.inf, wobble, rounding)
    known = [side for side in (ours, paper) if side.sd is not None and side.n > 1]
    freedom = sum(side.n - 1 for side in known)
    if not freedom or not ours.n:
        return Parts(None, 0, wobble, rounding)
    pooled = math.fsum((side.n - 1) * (side.sd or 0.0) ** 2 for side in known) / freedom
    return Parts(pooled * (1 / ours.n + 1 / max(paper.n, 1)), freedom, wobble, rounding)


def half_width(cells: Sequence[Parts]) -> float | None:
    """Half the width of the 95 % range of the mean difference over these cells, in points.

    Student's t for the seeds (Welch and Satterthwaite's degrees of freedom for several cells,
    rounded down), the normal distribution for the rest; both add as independent errors do. None
    where the spread over seeds is not known for a cell, or from no more than two seeds in all.
    """
    if not cells or any(cell.seeds is None for cell in cells):
        return None
    count = len(cells)
    variances = [cell.seeds or 0.0 for cell in cells]
    freedom = _freedom(variances, cells)
    if freedom < FEWEST - 1:
        return None
    seeds = student(freedom) ** 2 * math.fsum(variances)
    rest = NORMAL**2 * math.fsum(cell.images + cell.rounding for cell in cells)
    return math.sqrt(seeds + rest) / count


def student(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t; the normal one for infinite freedom."""
    return NORMAL if math.isinf(freedom) else quantile(max(int(freedom), 1))


def binomial(accuracy: float, images: int) -> float:
    """95 % half-width of an accuracy (percent) over other test images: not part of the noise."""
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * NORMAL * math.sqrt(share * (1 - share) / images) if images else math.nan


def _freedom(variances: Sequence[float], cells: Sequence[Parts]) -> float:
    below = math.fsum(
        variance**2 / cell.freedom
        for variance, cell in zip(variances, cells, strict=True)
        if variance
    )
    return math.fsum(variances) ** 2 / below if below else math.inf
