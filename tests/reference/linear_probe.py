"""The linear probe of CoOp's lpclip, step by step, and the gradient of the text-pulled probe."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

Array = NDArray[np.float64]


def fit(features: Array, labels: Array, c: float) -> LogisticRegression:
    """Logistic regression fitted with the official settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(solver="lbfgs", max_iter=1000, C=c).fit(features, labels)


def searched(
    train: Array, labels: Array, val: Array, targets: Array, steps: int = 8
) -> tuple[float, LogisticRegression]:
    """C found on a grid, then by bisection of log10 C, and the classifier of the last step."""
    grid = [1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6]
    scores = [float(np.mean(fit(train, labels, c).predict(val) == targets)) for c in grid]
    low, high = np.log10(grid[int(np.argmax(scores))]) + np.array([-1.0, 1.0])
    for _ in range(steps):
        left, right = fit(train, labels, 10**low), fit(train, labels, 10**high)
        middle = (low + high) / 2
        if np.mean(left.predict(val) == targets) < np.mean(right.predict(val) == targets):
            chosen, model, low = high, right, middle
        else:
            chosen, model, high = low, left, middle
    return float(10**chosen), model


def text_objective(
    weight: Tensor, features: Tensor, labels: Tensor, text: Tensor, scale: float, c: float
) -> tuple[float, Tensor]:
    """sum CE(f V', y) + |V - s T|^2 / (2 C) and its gradient in V, image by image."""
    total, gradient = 0.0, (weight - scale * text) / c
    for feature, label in zip(features, labels.tolist(), strict=True):
        probabilities = (weight @ feature).softmax(dim=0)
        total -= float(probabilities[label].log())
        error = probabilities.clone()
        error[label] -= 1
        gradient = gradient + torch.outer(error, feature)
    pull = float((weight - scale * text).square().sum()) / (2 * c)
    return total + pull, gradient
