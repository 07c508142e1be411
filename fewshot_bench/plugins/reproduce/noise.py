"""The difference to expect between a published number and ours if both are right.

`parts` has the components of one cell, `half_width` the 95 % range of a mean over cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.statistics.intervals import FEWEST, quantile

# Two-sided 95 % of the normal distribution.
NORMAL = 1.959964
# Share of test images so close to a class boundary that other arithmetic (device, precision,
# decoder) may change their class: two runs of zero-shot CLIP with one prompt differ by 0.2 points
# on StanfordCars, which this share explains (docs/how-to/reproduce.md).
UNDECIDED = 0.01


@dataclass(frozen=True, slots=True)
class Parts:
    """Components of the noise of one difference; variances in squared points.

    seeds: of the difference of the two means, from the spread over seeds; None where the spread is
        not known. freedom: the degrees of freedom of that estimate.
    images: from test images whose class depends on the arithmetic (UNDECIDED). rounding: of the
        printed number.
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
    """Components of the noise of one cell.

    ours, paper: the two sides; a paper that prints no standard deviation is assumed to have ours.
    images: test images; both sides have the same, so that their choice adds no noise.
    decimals: of the printed number. random: False where seeds change nothing (zero-shot).
    """
    wobble = UNDECIDED * 100**2 / images if images else 0.0
    rounding = (0.5 * 10.0**-decimals) ** 2 / 3
    if not random:
        return Parts(0.0, math.inf, wobble, rounding)
    sides = [side for side in (ours, paper) if side.sd is not None and side.n > 1]
    freedom = sum(side.n - 1 for side in sides)
    if not freedom or not ours.n:
        return Parts(None, 0, wobble, rounding)
    pooled = math.fsum((side.n - 1) * (side.sd or 0.0) ** 2 for side in sides) / freedom
    return Parts(pooled * (1 / ours.n + 1 / max(paper.n, 1)), freedom, wobble, rounding)


def half_width(cells: Sequence[Parts], *, printed_once: bool = False) -> float | None:
    """Half the width of the 95 % range of the mean difference over these cells, in points.

    Student's t for the seeds (Welch and Satterthwaite's degrees of freedom for several cells,
    rounded down), the normal distribution for the rest; both add as independent errors do. None
    where the spread over seeds is not known for a cell, or from no more than two seeds in all.
    printed_once: the paper prints, and so rounds, the mean alone.
    """
    if not cells or any(cell.seeds is None for cell in cells):
        return None
    count = len(cells)
    variances = [cell.seeds or 0.0 for cell in cells]
    pairs = zip(variances, cells, strict=True)
    below = math.fsum(variance**2 / cell.freedom for variance, cell in pairs if variance)
    freedom = math.fsum(variances) ** 2 / below if below else math.inf
    if freedom < FEWEST - 1:
        return None
    student = NORMAL if math.isinf(freedom) else quantile(max(int(freedom), 1))
    times = count if printed_once else 1
    others = math.fsum(cell.images + cell.rounding * times for cell in cells)
    return math.hypot(student * math.sqrt(math.fsum(variances)), NORMAL * math.sqrt(others)) / count


def binomial(accuracy: float, images: int) -> float | None:
    """95 % half-width of an accuracy (percent) over other test images: not part of the noise.

    None where the number of images is not known.
    """
    share = min(max(accuracy / 100, 0.0), 1.0)
    return 100 * NORMAL * math.sqrt(share * (1 - share) / images) if images else None
