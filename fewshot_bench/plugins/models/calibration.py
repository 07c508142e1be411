"""Probabilities from out-of-fold logits: the temperature, its error, the threshold of `--reject`.

`temperature_of`, `calibration_error` and `threshold` are the entry points. None of them sees logits
of an image that its method was fitted on. Fits that choose their own settings differ in the scale
of their logits, which go through `rescale` first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Logits = NDArray[np.float32]
    Labels = NDArray[np.int64]

SMALLEST, LARGEST, STEPS = 1e-4, 1e4, 80


def temperature_of(logits: Logits, labels: Labels, images: int) -> float:
    """Temperature that minimizes the negative log-likelihood of (n, classes) logits.

    images: number of distinct images. Labels are smoothed by Laplace's rule, certain to
    (images + 1) / (images + 2), so that the temperature does not vanish if all answers are right.
    """
    classes, doubt = logits.shape[1], 1 / (images + 2)
    target = np.full(logits.shape, doubt / classes)
    target[np.arange(len(labels)), labels] += 1 - doubt
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)

    def loss(exponent: float) -> float:
        scaled = shifted * math.exp(-exponent)
        total = np.log(np.exp(scaled).sum(axis=1))
        return float((total - (target * scaled).sum(axis=1)).mean())

    # Convex in the inverse temperature, so that it has one minimum.
    low, high, golden = math.log(SMALLEST), math.log(LARGEST), (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        first, second = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, second) if loss(first) <= loss(second) else (first, high)
    return math.exp((low + high) / 2)


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


def true_probabilities(logits: Logits, labels: Labels) -> NDArray[np.float64]:
    """(n,) mean probability of the label over repeats, at one temperature fitted to all.

    logits: (repeats, n, classes).
    """
    repeats, images, classes = logits.shape
    rows = logits.reshape(-1, classes)
    scaled = logits.astype(np.float64) / temperature_of(rows, np.tile(labels, repeats), images)
    shares = np.exp(scaled - scaled.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    probabilities: NDArray[np.float64] = shares[:, np.arange(images), labels].mean(axis=0)
    return probabilities


def confidences(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """(n,) the highest probability of each row."""
    scaled = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64) / temperature
    highest: NDArray[np.float64] = 1 / np.exp(scaled).sum(axis=1)
    return highest


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
