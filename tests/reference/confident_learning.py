"""Suspect labels, one image at a time, ranked by the thresholds of confident learning.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal
of Artificial Intelligence Research 70 (2021): the threshold of a class is its mean self-confidence.
Whether a label is wrong follows from a mixture of right labels and random others, by Bayes.
"""

from __future__ import annotations

import math

import numpy as np


def suspects(labels: list[int], shares: np.ndarray, errors: int) -> list[int]:
    """Indices of at most `errors` suspect labels, the most suspect first."""
    thresholds = {}
    for label in set(labels):
        own = [shares[index][label] for index in range(len(labels)) if labels[index] == label]
        thresholds[label] = sum(own) / len(own)
    # A label that is the answer is not in doubt.
    found = [index for index, label in enumerate(labels) if int(np.argmax(shares[index])) != label]
    found.sort(key=lambda index: float(shares[index][labels[index]]) / thresholds[labels[index]])
    return found[:errors]


def doubts(labels: list[int], shares: np.ndarray) -> list[float]:
    """The probability that each label is wrong: a mean over temperatures and shares of errors."""
    likely, each = [], []
    for step in range(21):
        rights = []
        for label, row in zip(labels, shares.tolist(), strict=True):
            powers = [share ** (32 ** (step / 20)) for share in row]
            rights.append(powers[label] / sum(powers))
        wrongs = [(1 - right) / (shares.shape[1] - 1) for right in rights]
        pairs = list(zip(rights, wrongs, strict=True))
        for noise in (0.5 * (number / 100) ** 2 for number in range(101)):
            both = [(1 - noise) * right + noise * wrong for right, wrong in pairs]
            likely.append(sum(map(math.log, both)))
            each.append([noise * wrong / one for wrong, one in zip(wrongs, both, strict=True)])
    weights = [math.exp(one - max(likely)) for one in likely]
    return [
        sum(weight * doubt for weight, doubt in zip(weights, column, strict=True)) / sum(weights)
        for column in zip(*each, strict=True)
    ]
