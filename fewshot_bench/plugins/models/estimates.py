"""Estimates from out-of-fold logits: the best method, its accuracy, its probabilities.

`best_of` chooses a method, `estimate` gives the accuracy to expect of it. The unit is the picture
(`Units`): answers of all repeats to it and to its copies are averaged first. `temperature_of`,
`calibration_error` and `threshold` make and judge probabilities; fits that choose their own
settings differ in the scale of their logits, which go through `rescale` first. No logits of an
image that its method was fitted on come here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

from fewshot_bench.api import metrics
from fewshot_bench.store.kept_models import MACRO

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shares = NDArray[np.float64]
    Logits = NDArray[np.float32]
    Labels = NDArray[np.int64]

LEVEL, NORMAL = 0.95, 1.959964
# Variances of an accuracy: of five folds (Nadeau and Bengio 2003), and of as many new pictures.
SHARED, NEW = 2.25, 1.0
DRAWS = 1000
# A candidate that loses by more than this many standard errors is not tried again.
CLEARLY = 2.0
# Logarithms of temperatures to search between.
BOUNDS = math.log(1e-4), math.log(1e4)
# Temperatures of calibrated probabilities, which wrong labels flatten, and shares of wrong labels.
SHARPER, NOISE = np.geomspace(1, 1 / 32, 21), np.linspace(0, 0.5**0.5, 101) ** 2


@dataclass(frozen=True)
class Accuracy:
    """A share of images with its interval; `images` different ones were held out."""

    mean: float
    low: float
    high: float
    images: int


@dataclass(frozen=True, eq=False)
class Units:
    """Different pictures that are held out: copies with one label are one unit.

    places: (n,) the held-out images; units: (n,) the unit of each; labels: (units,).
    """

    places: Labels
    units: Labels
    labels: Labels

    @classmethod
    def of(cls, labels: Labels, groups: Labels, places: Labels) -> Units:
        """Units of the held-out images. groups: (images,) lowest index of the copies of each."""
        pairs = np.stack([groups[places], labels[places]], axis=1)
        different, units = np.unique(pairs, axis=0, return_inverse=True)
        return cls(places, units.reshape(-1), different[:, 1])

    def mean(self, values: Shares) -> Shares:
        """(units,) means of (n,) values."""
        return np.asarray(np.bincount(self.units, values) / np.bincount(self.units))

    def weights(self, metric: str) -> Shares:
        """(units,) weights of sum 1: equal ones, or for MACRO equal ones of the classes."""
        counts = np.bincount(self.labels)[self.labels]
        weights = 1 / counts if metric == MACRO else np.ones(len(counts))
        return np.asarray(weights / weights.sum())


def wilson(share: float, images: float) -> tuple[float, float]:
    """Wilson's score interval of a share of held-out images, for the share of as many new ones.

    Folds share training images, and the kept model is yet another fit (`SHARED`); new pictures have
    a noise of their own (`NEW`).
    """
    images /= SHARED + NEW
    square = NORMAL**2
    center = (share + square / (2 * images)) / (1 + square / images)
    spread = share * (1 - share) / images + square / (4 * images**2)
    half = NORMAL / (1 + square / images) * math.sqrt(spread)
    # The share is inside, but for rounding.
    return max(0.0, min(center - half, share)), min(1.0, max(center + half, share))


def own(right: Shares, weights: Shares) -> Accuracy:
    """Accuracy of one method by itself; right: (units,) share of repeats that were right.

    With unequal weights, as many images count as have the same variance with equal ones (Kish).
    """
    mean = float(right @ weights)
    return Accuracy(mean, *wilson(mean, 1 / float(weights @ weights)), len(right))


def lead(right: Shares, other: Shares, weights: Shares) -> tuple[float, float]:
    """The mean difference of two methods on the same units, and its standard error."""
    gap, count = right - other, len(right)
    mean = float(gap @ weights)
    spread = float(np.linalg.norm((gap - mean) * weights))
    return mean, spread * math.sqrt(count / (count - 1)) if count > 1 else math.inf


def best_of(scores: Sequence[Shares], tiers: Sequence[int], weights: Shares) -> int:
    """Index of the chosen method: the best of the cheapest tier that is as good as the best of all.

    scores: (units,) of each method, the share of repeats that were right plus the probability of
    the label, which is more informative than right or wrong for few images. As good is within one
    standard error of the paired difference to the best of all. tiers: cost rank of each method.
    """
    means = [float(score @ weights) for score in scores]
    top = max(range(len(scores)), key=means.__getitem__)
    for tier in sorted(set(tiers)):
        inside = [index for index, rank in enumerate(tiers) if rank == tier]
        best = max(inside, key=means.__getitem__)
        gap, error = lead(scores[top], scores[best], weights)
        # A lead of one image alone is equal to its standard error, but for rounding.
        if gap <= error or math.isclose(gap, error):
            return best
    return top


def estimate(right: Sequence[Shares], chosen: int, weights: Shares, seed: int) -> Accuracy:
    """Accuracy to expect of the method that was chosen among several by the same images.

    The mean is corrected for the choice: images are drawn with replacement, a method is chosen by
    those and measured on the others (bootstrap bias-corrected cross-validation, Tsamardinos et al.
    2018). The interval is that of `own`, its lower end around the corrected mean, its upper end
    around the observed mean.
    """
    seen = own(right[chosen], weights)
    if len(right) == 1:
        return seen
    table, rng = np.stack(right), np.random.default_rng(seed)
    left: list[float] = []
    for _ in range(DRAWS):
        drawn = np.bincount(rng.integers(seen.images, size=seen.images), minlength=seen.images)
        rest = weights * (drawn == 0)
        if not rest.any():
            continue
        winner = int((table @ (weights * drawn)).argmax())
        left.append(float(table[winner] @ rest / rest.sum()))
    mean = min(seen.mean, math.fsum(left) / len(left)) if left else seen.mean
    return Accuracy(mean, wilson(mean, 1 / float(weights @ weights))[0], seen.high, seen.images)


def softmax(logits: Logits, temperature: float) -> Shares:
    """(..., classes) probabilities."""
    return np.asarray(special.softmax(logits.astype(np.float64) / temperature, axis=-1))


def temperature_of(logits: Logits, labels: Labels, images: int) -> float:
    """Temperature that minimizes the negative log-likelihood of (n, classes) logits.

    images: number of distinct images. Labels are smoothed by Laplace's rule, certain to
    (images + 1) / (images + 2), so that the temperature does not vanish if all answers are right.
    """
    classes, doubt = logits.shape[1], 1 / (images + 2)
    target = np.full(logits.shape, doubt / classes)
    target[np.arange(len(labels)), labels] += 1 - doubt
    exact = logits.astype(np.float64)

    def loss(exponent: float) -> float:
        scaled = special.log_softmax(exact * math.exp(-exponent), axis=1)
        return float(-(target * scaled).sum(axis=1).mean())

    # Convex in the inverse temperature, so that it has one minimum.
    found = optimize.minimize_scalar(loss, bounds=BOUNDS, options={"xatol": 1e-9})
    return math.exp(found.x)


def doubts(labels: Labels, shares: Shares) -> Shares:
    """(n,) probability that each label is wrong; their sum is the number of wrong labels.

    labels: (n,); shares: (n, classes) probabilities by fits that had not seen the image. A share of
    labels is taken to be drawn from the other classes at random. The result is a mean over such
    shares and over temperatures for the right labels, weighted by the likelihood of all labels:
    wrong labels are less likely than the probabilities allow, so that a weak model finds few.
    """
    logits, places = np.log(np.maximum(shares, 1e-30)), np.arange(len(labels))
    noise, most, total, found = NOISE[:, None], -np.inf, 0.0, np.zeros(len(labels))
    for temperature in SHARPER:
        right = np.exp(logits[places, labels] / temperature)
        right /= np.exp(logits / temperature).sum(axis=1)
        wrong = (1 - right) / (shares.shape[1] - 1)
        both = right + noise * (wrong - right) + 1e-300
        likely = np.log(both).sum(axis=1)
        before, most = most, max(most, float(likely.max()))
        weights, kept = np.exp(likely - most), np.exp(before - most)
        found, total = kept * found + weights @ (noise * wrong / both), kept * total + weights.sum()
    return np.asarray(found / total)


def scale_of(logits: Logits) -> float:
    """The root mean square of (n, classes) logits around their row's mean; 1 for equal ones."""
    centered = logits.astype(np.float64) - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    return float(np.sqrt((centered**2).mean())) or 1.0


def rescale(logits: Logits, parts: Labels) -> Logits:
    """(n, classes) logits divided by the scale of their fit. parts: (n,) number of the fit."""
    scaled = logits.copy()
    for part in np.unique(parts):
        scaled[parts == part] /= np.float32(scale_of(logits[parts == part]))
    return scaled


def true_probabilities(logits: Logits, labels: Labels) -> Shares:
    """(n,) mean probability of the label over repeats, at one temperature fitted to all.

    logits: (repeats, n, classes).
    """
    repeats, images, classes = logits.shape
    rows = logits.reshape(-1, classes)
    shares = softmax(logits, temperature_of(rows, np.tile(labels, repeats), images))
    return np.asarray(shares[:, np.arange(images), labels].mean(axis=0))


def confidences(logits: Logits, temperature: float) -> Shares:
    """(n,) the highest probability of each row."""
    return np.asarray(softmax(logits, temperature).max(axis=1))


def calibration_error(logits: Logits, labels: Labels, parts: Labels, images: int) -> float:
    """Expected calibration error as a share; each part uses the temperature of the others.

    parts: (n,) the fold in which each row was held out.
    """
    shares = np.empty(len(labels))
    for part in np.unique(parts):
        inside = parts == part
        rest = ~inside if not inside.all() else inside
        shares[inside] = confidences(
            logits[inside], temperature_of(logits[rest], labels[rest], images)
        )
    return metrics.calibration_error(shares, logits.argmax(axis=1) == labels) / 100


def threshold(
    logits: Logits, labels: Labels, temperature: float, kept: float, images: int
) -> float | None:
    """The probability that the share `kept` of right answers reaches; None if they are too few.

    Below it a query belongs to no class. Right answers are too few if less than one of them per
    repeat may be rejected.
    """
    right = logits.argmax(axis=1) == labels
    repeats = len(labels) / images
    if right.sum() / repeats * (1 - kept) < 1:
        return None
    probabilities = confidences(logits[right], temperature)
    return float(np.quantile(probabilities, 1 - kept, method="lower"))
