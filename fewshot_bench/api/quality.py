"""How good predictions are, from logits and labels alone: accuracy, F1 and calibration.

This is the only place that defines the metrics of a record: a run computes them here, and so do
`fsbench store verify` and `compare` again. `metrics.METRICS` names them. All is in float64. A
prediction is the class with the highest logit, of equal ones that with the lowest index.
Probabilities are the softmax of the logits, without any temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 5.
BINS = 15
# Rows are worked on in parts of about so many values, so that ImageNet needs no gigabyte.
_PART = 2**20


@dataclass(frozen=True, slots=True)
class PerClass:
    """Float64 arrays (classes,): NaN for classes without images, which no mean may count.

    images: how many there are of each class. accuracy: the share of a class's images that is
    predicted right, in percent (its recall). precision: the share of right ones among the images
    predicted as it, in percent; NaN where there is none. f1: 2 TP / (2 TP + FP + FN), in percent.
    """

    images: np.ndarray
    accuracy: np.ndarray
    precision: np.ndarray
    f1: np.ndarray


def metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """Every metric of `metrics.METRICS`, not rounded, and `n`. logits: (n, classes); labels: (n,).

    `top1`, in percent. `macro_accuracy`: the mean of the classes' accuracies, in percent, and
    `macro_f1`: the mean of their F1 scores, in percent; both over the classes that have images
    (scikit-learn: `f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)`).
    `nll`: mean of -ln p(label), in nats.
    `brier`: mean over images of the sum over classes of (p - [class is label])^2, from 0 to 2
    (Brier, Monthly Weather Review 1950: neither halved nor divided by the number of classes).
    `ece` and `adaptive_ece`: `calibration_error` with equal width and with equal mass, in percent.
    Raises ValueError where there are no images.
    """
    if not len(labels):
        raise ValueError("no images: metrics need at least one")
    confidence, nll, brier = _probabilities(logits, labels)
    predictions = predicted(logits)
    hits = predictions == labels
    classes = per_class(predictions, labels, logits.shape[1])
    return {
        "top1": 100 * float(hits.mean()),
        "macro_accuracy": float(np.nanmean(classes.accuracy)),
        "macro_f1": float(np.nanmean(classes.f1)),
        "nll": float(nll.mean()),
        "brier": float(brier.mean()),
        "ece": calibration_error(confidence, hits),
        "adaptive_ece": adaptive_calibration_error(confidence, hits),
        "n": len(labels),
    }


def predicted(logits: np.ndarray) -> np.ndarray:
    """(n,) the predicted classes of logits (n, classes)."""
    chosen: np.ndarray = logits.argmax(axis=1)
    return chosen


def confidences(logits: np.ndarray) -> np.ndarray:
    """(n,) the highest probability of each image. logits: (n, classes)."""
    found = np.empty(len(logits))
    for part, shifted in _shifted(logits):
        found[part] = 1 / np.exp(shifted, out=shifted).sum(axis=1)
    return found


def per_class(predictions: np.ndarray, labels: np.ndarray, classes: int) -> PerClass:
    """Accuracy, precision and F1 of every class. predictions and labels: (n,) class indices."""
    images = np.bincount(labels, minlength=classes).astype(np.float64)
    found = np.bincount(predictions, minlength=classes)
    right = np.bincount(labels[predictions == labels], minlength=classes)
    accuracy = _percent(right, images)
    precision = np.where(images > 0, _percent(right, found), np.nan)
    f1 = np.where(images > 0, _percent(2 * right, images + found), np.nan)
    return PerClass(images, accuracy, precision, f1)


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 part / whole; NaN where there is no whole."""
    empty = np.full(len(whole), np.nan)
    np.divide(100.0 * part, whole, out=empty, where=whole > 0)
    return empty


def calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error in percent (Guo et al., ICML 2017, equation 3).

    Images fall into `bins` bins of equal width over their confidence, the highest probability of an
    image: (0, 1/bins], ... ((bins-1)/bins, 1], each closed on the right. The error is the mean over
    bins of |accuracy - mean confidence|, weighted by the images in the bin; empty bins count
    nothing. confidence: (n,) in (0, 1]; hits: (n,) whether the prediction is right.
    """
    places = equal_width(confidence, bins)
    gaps = np.bincount(places, weights=hits - confidence, minlength=bins)
    return 100 * float(np.abs(gaps).sum()) / len(hits)


def equal_width(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(n,) the bin of each image: (0, 1/bins], ... ((bins-1)/bins, 1], each closed on the right."""
    places: np.ndarray = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return places


def adaptive_calibration_error(confidence: np.ndarray, hits: np.ndarray, bins: int = BINS) -> float:
    """The same error over bins of equal mass, in percent.

    Images are sorted by confidence and cut into `bins` runs of equal length, the first `n % bins`
    one longer (the adaptive bins of Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    Workshops 2019, for the predicted class alone, as in Mukhoti et al., NeurIPS 2020). Images of
    equal confidence count with the accuracy that they have together: their order is of no account.
    """
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    starts = np.flatnonzero(first)
    counts = np.diff([*starts, len(ordered)])
    right = np.repeat(np.add.reduceat(hits[order].astype(np.float64), starts) / counts, counts)
    gaps = [abs(float(part.sum())) for part in np.array_split(right - ordered, bins)]
    return 100 * sum(gaps) / len(hits)


def rounded_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | int]:
    """The metrics of a record: `metrics`, to six digits behind the decimal point."""
    return {name: round(value, 6) for name, value in metrics(logits, labels).items()}


def _probabilities(
    logits: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per image: the highest probability, -ln p(label) in nats, and the Brier score."""
    confidence, nll, brier = np.empty((3, len(logits)))
    for part, shifted in _shifted(logits):
        own = shifted[np.arange(len(shifted)), labels[part]]
        powers = np.exp(shifted, out=shifted)
        total = powers.sum(axis=1)
        confidence[part] = 1 / total
        nll[part] = np.log(total) - own
        squares = np.einsum("ij,ij->i", powers, powers) / total**2
        brier[part] = squares - 2 * np.exp(own) / total + 1
    return confidence, nll, brier


def _shifted(logits: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of the rows in float64, less the highest logit of each: softmax needs no more."""
    step = max(1, _PART // logits.shape[1])
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        shifted = logits[part].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        yield part, shifted
