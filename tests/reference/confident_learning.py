"""Confident learning as its paper states it, one image at a time.

Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in dataset labels", Journal
of Artificial Intelligence Research 70 (2021): equations 1 and 2 (thresholds and confident joint),
equation 3 (calibration), and pruning by class with self-confidence.
"""

from __future__ import annotations

import numpy as np


def suspects(labels: list[int], shares: np.ndarray) -> list[int]:
    """Indices of suspect labels, those of the least self-confidence first."""
    count = shares.shape[1]
    thresholds = {}
    for label in set(labels):
        own = [shares[index][label] for index in range(len(labels)) if labels[index] == label]
        thresholds[label] = sum(own) / len(own)
    joint = [[0] * count for _ in range(count)]
    for index, label in enumerate(labels):
        reached = [j for j in thresholds if shares[index][j] >= thresholds[j]]
        if reached:
            joint[label][max(reached, key=lambda j: float(shares[index][j]))] += 1
    found = []
    for label in set(labels):
        row = joint[label]
        images = [index for index in range(len(labels)) if labels[index] == label]
        wrong = sum(row) - row[label]
        errors = round(len(images) * wrong / sum(row)) if wrong else 0
        # A label that is the answer, too, is not in doubt.
        doubtful = [index for index in images if int(np.argmax(shares[index])) != label]
        found += sorted(doubtful, key=lambda index: float(shares[index][label]))[:errors]
    return sorted(found, key=lambda index: float(shares[index][labels[index]]))
