"""Out-of-fold answers of a method: per-class recall, confusions and calibration.

`Learned` is the entry point. The unit is the group of copies: copies of a picture count as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api import metrics
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.estimates import Units
from fewshot_bench.store.kept_models import MACRO, TOP1

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Learned:
    """Answers to n images by fits that had not seen them nor a copy of them.

    ids: of the images; labels, groups: (n,) class and lowest index of the copies of each; each:
    (repeats, n, classes) calibrated probabilities, NaN for images that were not held out.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classnames: tuple[str, ...]
    each: NDArray[np.float32]

    @cached_property
    def held(self) -> NDArray[np.bool_]:
        """(n,) whether an image was held out."""
        return np.asarray(~np.isnan(self.each[0, :, 0]))

    @cached_property
    def units(self) -> Units:
        """The different pictures that were held out."""
        return Units.of(self.labels, self.groups, np.flatnonzero(self.held))

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(n, classes) mean over repeats."""
        return np.asarray(self.each.mean(axis=0, dtype=np.float64))

    @cached_property
    def answers(self) -> NDArray[np.int64]:
        """(repeats, held-out images) the likeliest class."""
        return np.asarray(self.each[:, self.held].argmax(axis=2))

    @cached_property
    def right(self) -> NDArray[np.float64]:
        """(units,) share of repeats with the right answer."""
        return self.units.mean((self.answers == self.labels[self.held]).mean(axis=0))

    def mean(self, metric: str) -> float:
        """The mean of `right`, by a metric of `kept_models.MEASURES`."""
        return float(self.right @ self.units.weights(metric))

    @cached_property
    def confusion(self) -> NDArray[np.float64]:
        """(classes, classes) number of different pictures, by label and answer.

        A picture with several answers, of repeats or copies, is a part of one in each.
        """
        parts = 1 / (np.bincount(self.units.units)[self.units.units] * len(self.each))
        table = np.zeros((len(self.classnames), len(self.classnames)))
        np.add.at(table, (self.labels[self.held], self.answers), parts)
        return table

    def classes(self) -> list[dict[str, Any]]:
        """A row for each class, by label.

        Keys: `class`, `images` (different pictures that were held out), `right`, `recall` with
        `low` and `high` (None without images) and `most_confused_with` (empty without mistakes).
        """
        confused = {row["class"]: row["answer"] for row in reversed(self.confusions())}
        rows: list[dict[str, Any]] = []
        for name, counts in zip(self.classnames, self.confusion, strict=True):
            images, right = round(counts.sum()), round(float(counts[len(rows)]), 9)
            recall = min(right / images, 1.0) if images else None
            low, high = (None, None) if recall is None else estimates.wilson(recall, images)
            row = {"class": name, "images": images, "right": right, "recall": recall}
            row |= {"low": low, "high": high, "most_confused_with": confused.get(name, "")}
            rows.append(row)
        return rows

    def worst(self) -> list[dict[str, Any]]:
        """The rows of the classes, the lowest recall first, those without images last."""
        return sorted(self.classes(), key=lambda row: (row["recall"] is None, row["recall"]))

    def confusions(self) -> list[dict[str, Any]]:
        """Pairs of a class and a wrong answer, the most frequent first.

        Keys: `class`, `answer`, `images` (number of pictures) and `share` (of the class).
        """
        names, table = self.classnames, self.confusion
        rows = [
            {"class": names[label], "answer": names[answer], "images": float(table[label, answer])}
            | {"share": float(table[label, answer] / table[label].sum())}
            for label, answer in np.argwhere(table).tolist()
            if label != answer
        ]
        return sorted(rows, key=lambda row: -row["images"])

    def remark(self) -> str:
        """A sentence if top-1 is above macro by more than the noise of their difference."""
        weights = [self.units.weights(metric) for metric in (TOP1, MACRO)]
        overall = np.full_like(self.right, self.right.mean())
        gap, error = estimates.lead(self.right, overall, weights[0] - weights[1])
        top1, macro = (100 * self.mean(metric) for metric in (TOP1, MACRO))
        told = f"{top1:.1f} % right, but {macro:.1f} % in the mean of the classes"
        return f"large classes are easier: {told}" if gap > estimates.CLEARLY * error else ""

    def calibration(self) -> list[tuple[float, float, float]]:
        """Bins of the highest probability that are not empty, from low to high.

        Each: the number of answers, the share of right ones, and the mean probability.
        """
        sure, right = self.each[:, self.held].max(axis=2), self.answers == self.labels[self.held]
        table = metrics.reliability(sure.ravel(), right.ravel()).T.tolist()
        return [(images, hits / images, total / images) for images, hits, total in table if images]
