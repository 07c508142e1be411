"""Out-of-fold accuracy: paired comparison of methods, and the interval of the chosen one.

`best_of` chooses a method, `estimate` gives the accuracy to expect of it. The unit is the image:
answers of all repeats to one image are averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shares = NDArray[np.float64]

LEVEL, NORMAL = 0.95, 1.959964
SHARED = 1.5
DRAWS = 1000
# A candidate that loses by more than this many standard errors is not tried again.
CLEARLY = 2.0


@dataclass(frozen=True)
class Accuracy:
    """A share of images with its interval; `images` were held out."""

    mean: float
    low: float
    high: float
    images: int


def wilson(share: float, held_out: int) -> tuple[float, float]:
    """Wilson's score interval of a share of held-out images.

    Folds share training images, and the kept model is yet another fit: fewer images count
    (`SHARED`). Nadeau and Bengio (2003) correct for that by up to 2.25.
    """
    images = held_out / SHARED
    square = NORMAL**2
    center = (share + square / (2 * images)) / (1 + square / images)
    spread = share * (1 - share) / images + square / (4 * images**2)
    half = NORMAL / (1 + square / images) * math.sqrt(spread)
    return max(0.0, center - half), min(1.0, center + half)


def own(right: Shares) -> Accuracy:
    """Accuracy of one method by itself; right: (images,) share of repeats that were right."""
    mean = float(right.mean())
    return Accuracy(mean, *wilson(mean, len(right)), len(right))


def lead(right: Shares, other: Shares) -> tuple[float, float]:
    """The mean difference of two methods on the same images, and its standard error."""
    gap = right - other
    error = float(gap.std(ddof=1)) / math.sqrt(len(gap)) if len(gap) > 1 else math.inf
    return float(gap.mean()), error


def best_of(scores: Sequence[Shares], tiers: Sequence[int]) -> int:
    """Index of the chosen method: the best of the cheapest tier that is as good as the best of all.

    scores: (images,) of each method, the share of repeats that were right plus the probability of
    the label, which is more informative than right or wrong for few images. As good is within one
    standard error of the paired difference to the best of all. tiers: cost rank of each method.
    """
    top = _best(scores, range(len(scores)))
    for tier in sorted(set(tiers)):
        best = _best(scores, [index for index, rank in enumerate(tiers) if rank == tier])
        gap, error = lead(scores[top], scores[best])
        if gap <= error:
            return best
    return top


def _best(scores: Sequence[Shares], places: Iterable[int]) -> int:
    return max(places, key=lambda index: float(scores[index].mean()))


def estimate(right: Sequence[Shares], chosen: int, seed: int) -> Accuracy:
    """Accuracy to expect of the method that was chosen among several by the same images.

    The mean is corrected for the choice: images are drawn with replacement, a method is chosen by
    those and measured on the others (bootstrap bias-corrected cross-validation, Tsamardinos et al.
    2018). The interval is Wilson's, its lower end around the corrected mean, its upper end around
    the observed mean.
    """
    seen = own(right[chosen])
    if len(right) == 1:
        return seen
    table, rng = np.stack(right), np.random.default_rng(seed)
    left: list[float] = []
    for _ in range(DRAWS):
        drawn = np.bincount(rng.integers(seen.images, size=seen.images), minlength=seen.images)
        if drawn.all():
            continue
        winner = int((table @ drawn).argmax())
        left.append(float(table[winner, drawn == 0].mean()))
    mean = min(seen.mean, math.fsum(left) / len(left)) if left else seen.mean
    return Accuracy(mean, wilson(mean, seen.images)[0], seen.high, seen.images)
