"""Degrees of freedom of a standard error with contributions of few seeds and many images.

Satterthwaite (1946) gives the sum of independent mean squares the freedom
`(sum c)^2 / sum(c^2 / v)`. That is right on average but fails in the critical case: when the part
of a few seeds comes out small by chance, the test statistic is large, and the formula also claims
many degrees of freedom. With 3 seeds and a seed part of nine tenths of the variance, 7.9 % of true
nulls are rejected at 5 %; with one data set that is much noisier than the others (EuroSAT with one
shot) up to 7.8 %, and with equal ones only 3.4 %.

The formulas here keep Satterthwaite's form and reweight the products of two parts in the square of
the sum. With `s = min(1, 2 / v)`, which is 1 for 2 degrees of freedom or fewer:

- the product of seed parts `c_i >= c_j` of two data sets has weight
  `(1 - s) + 6 s (c_j / c_i)^2`: more for parts of equal size, less beside a far larger part;
- the product of the pooled seed part and the image part has weight `1 - s`.

For many degrees of freedom s tends to 0 and both reduce to Satterthwaite's. For a single part, both
give its own freedom, so that one data set with huge test data is exactly the t-test over seeds. The
6 and the form were chosen by simulating normal parts (`python -m benchmarks.level_parts`).

They hold 5 % and not the tail: of a few seeds without images, a p-value of 0.0001 came up ten times
too often on two data sets. Where only seeds are tested, the freedom is therefore the least of any
data set. This holds every level for normal seeds of any variances: given the weights w and the
estimates X of the parts, the level is the mean of `2 Phi(-t sqrt(sum w X))`, which is convex in the
sum, and so at most the mean for a single part (Mickey and Brown 1966). Between the two, the freedom
grows with the image part's share of the standard error: growing with its share of the variance
costs a third more width on eleven noisy data sets. Levels of whole benchmarks and of tails are
measured by `python -m benchmarks.level` (docs/explanation/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MANY = 1e9
"""Degrees of freedom used in place of infinity."""


def pool(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """Freedom of the sum of the seed parts of several data sets; MANY when all parts are 0."""
    order = np.argsort(parts)[::-1]
    c, v = np.asarray(parts, dtype=float)[order], np.asarray(freedoms, dtype=float)[order]
    if not c[0] > 0:
        return MANY
    c, v = c[c > 0], v[c > 0]
    s = np.minimum(1, 2 / v)[:, None]
    ratio = np.minimum(1, c[None, :] / c[:, None])
    weights = (1 - s) + 6 * s * ratio**2
    larger = np.triu(weights * np.outer(c, c), 1).sum()
    return float(max((c @ c + 2 * larger) / (c * c / v).sum(), v.min()))


def combine(
    parts: Sequence[float], freedoms: Sequence[float], image: float, image_square: float
) -> float:
    """Freedom of the seed parts of data sets plus their image part.

    With a seed freedom of 1 (two seeds) the image part's own square counts for a sixteenth: on one
    data set the level then stays below about 6 %, for the price of less than 4 % elsewhere.

    Args:
        parts: seed parts of the variance, one per data set or kind of seed.
        freedoms: degrees of freedom of each part.
        image: image part of the variance.
        image_square: sum over data sets of the image part's square by its freedom.
    """
    seed = math.fsum(parts)
    if not seed + image > 0:
        return MANY
    inverse = image_square / (seed + image) ** 2
    if seed > 0:
        freedom = min(own for part, own in zip(parts, freedoms, strict=True) if part > 0)
        if not image > 0:
            return freedom
        freedom += (pool(parts, freedoms) - freedom) * math.sqrt(image / (seed + image))
        s = min(1.0, 2 / freedom)
        whole = seed**2 + 2 * (1 - s) * seed * image
        whole += min(1.0, freedom / 2) ** 4 * image**2
        inverse += seed**2 / freedom / whole
    return min(MANY, 1 / inverse) if inverse > 0 else MANY
