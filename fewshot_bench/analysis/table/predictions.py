"""Predictions of every method for every test image, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Group, Seed, Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.utils.errors import StoreError

# Columns of every row with the type of their values; the columns of the methods follow.
FIRST: dict[str, type] = {
    "dataset": str,
    "shots": int,
    "split_seed": int,
    "train_seed": int,
    "image": str,
    "label": int,
    "label_name": str,
}
OWN: dict[str, type] = {"prediction": int, "name": str, "confidence": float}
# Id and label of an image of a test set, and how often the id stands before it in the set.
Image = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class _Answers:
    """Predictions of one record: (class, its name, probability) by image; all class names."""

    by_image: Mapping[Image, tuple[int, str, float]]
    names: list[str]


@dataclass
class Predictions:
    """Reads predictions of a table's records; `absent` counts those without usable logits."""

    table: Table
    outcomes: Outcomes
    absent: int = 0
    cells: int = 0
    datasets: set[str] = field(default_factory=set)

    @property
    def columns(self) -> dict[str, type]:
        """All columns with the type of their values; shots are text if `all` is among them."""
        own = {f"{row.label} {name}": kind for row in self.table.rows for name, kind in OWN.items()}
        return FIRST | {"shots": str if ALL_SHOTS in self.table.shots else int} | own

    def blocks(self) -> Iterator[dict[str, list[Any]]]:
        """Yield the columns of one block per data set, shots and pair of seeds.

        Methods are aligned by image; None where a method has no prediction for it.
        """
        for group in self.table.groups:
            for shots in group.shots if not group.derived else ():
                for seed in group.seeds:
                    answers = self._answers(group, shots, seed)
                    if answers:
                        self.cells += len(answers)
                        self.datasets.add(group.label)
                        yield self._block(group, shots, seed, answers)

    def _answers(self, group: Group, shots: int, seed: Seed) -> dict[str, _Answers]:
        """By row, in the order of the table: the first determines the order of the images."""
        answers = {}
        for row in self.table.rows:
            record = self.table.cell(group, row, shots).records.get(seed)
            if record is not None:
                try:
                    answers[row.label] = self._of(record)
                except StoreError:
                    self.absent += 1
        return answers

    def _of(self, record: Record) -> _Answers:
        outcome = self.outcomes.of(record)
        names = class_names([record], outcome.classes)
        seen: Counter[str] = Counter()
        by_image: dict[Image, tuple[int, str, float]] = {}
        for image, label, prediction, confidence in zip(
            outcome.ids,
            outcome.labels.tolist(),
            outcome.predictions.tolist(),
            outcome.confidences.tolist(),
            strict=True,
        ):
            by_image[image, label, seen[image]] = prediction, names[prediction], confidence
            seen[image] += 1
        return _Answers(by_image, names)

    def _block(
        self, group: Group, shots: int, seed: Seed, answers: Mapping[str, _Answers]
    ) -> dict[str, list[Any]]:
        images: dict[Image, str] = {}
        for own in answers.values():
            for image in own.by_image:
                images.setdefault(image, own.names[image[1]])
        count = len(images)
        columns: dict[str, list[Any]] = {
            "dataset": [group.name] * count,
            "shots": [self.columns["shots"](shots)] * count,
            "split_seed": [seed.split] * count,
            "train_seed": [seed.train] * count,
            "image": [id for id, _, _ in images],
            "label": [label for _, label, _ in images],
            "label_name": list(images.values()),
        }
        nothing = (None,) * len(OWN)
        for row in self.table.rows:
            by_image = answers[row.label].by_image if row.label in answers else {}
            lines = [by_image.get(image, nothing) for image in images]
            for name, values in zip(OWN, zip(*lines, strict=True), strict=True):
                columns[f"{row.label} {name}"] = list(values)
        return columns
