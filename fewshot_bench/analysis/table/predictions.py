"""Predictions of every method for every test image, side by side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fewshot_bench.analysis.conditions import assign_rows
from fewshot_bench.analysis.table.axes import Group, Seed
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.analysis.table.per_class import class_names
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


class _Image(NamedTuple):
    """An image of a test set; `time` counts earlier occurrences of the same id in the set."""

    id: str
    label: int
    time: int


class _Answers(NamedTuple):
    """Predictions of one record: (class, its name, probability) per image; all class names."""

    images: list[_Image]
    values: list[tuple[int, str, float]]
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

    def blocks(self, records: Sequence[Record]) -> Iterator[dict[str, list[Any]]]:
        """Yield the columns of one block per data set, shots and pair of seeds.

        Methods are aligned by image; None where a method has no prediction for it.
        """
        places = self._places(records)
        for group in self.table.groups:
            for shots in group.shots if not group.derived else ():
                for seed in group.seeds:
                    found = self._answers(places.get((group.label, shots, seed), {}))
                    if found:
                        self.cells += len(found)
                        self.datasets.add(group.label)
                        yield self._block(group, shots, seed, found)

    def _places(self, records: Sequence[Record]) -> dict[tuple[str, int, Seed], dict[str, Record]]:
        places: defaultdict[tuple[str, int, Seed], dict[str, Record]] = defaultdict(dict)
        for label, (_, members) in self.table.names.rows(assign_rows(records)).items():
            for record in members:
                if record.status == "done":
                    place = record.spec.evaluated, record.spec.shots, Seed.of(record)
                    places[place][label] = record
        return places

    def _answers(self, records: dict[str, Record]) -> dict[str, _Answers]:
        found = {}
        # Follow the order of the table: the first method determines the order of the images.
        for label in (row.label for row in self.table.rows if row.label in records):
            try:
                found[label] = self._of(records[label])
            except StoreError:
                self.absent += 1
        return found

    def _of(self, record: Record) -> _Answers:
        outcome = self.outcomes.of(record)
        names = class_names([record], outcome.classes)
        seen: Counter[str] = Counter()
        images = []
        for name, label in zip(outcome.ids, outcome.labels.tolist(), strict=True):
            images.append(_Image(name, label, seen[name]))
            seen[name] += 1
        values = [
            (prediction, names[prediction], confidence)
            for prediction, confidence in zip(
                outcome.predictions.tolist(), outcome.confidences.tolist(), strict=True
            )
        ]
        return _Answers(images, values, names)

    def _block(
        self, group: Group, shots: int, seed: Seed, found: dict[str, _Answers]
    ) -> dict[str, list[Any]]:
        names: dict[_Image, str] = {}
        for answers in found.values():
            for image in answers.images:
                names.setdefault(image, answers.names[image.label])
        count = len(names)
        columns: dict[str, list[Any]] = {
            "dataset": [group.name] * count,
            "shots": [self.columns["shots"](shots)] * count,
            "split_seed": [seed.split] * count,
            "train_seed": [seed.train] * count,
            "image": [image.id for image in names],
            "label": [image.label for image in names],
            "label_name": list(names.values()),
        }
        nothing = (None,) * len(OWN)
        for row in self.table.rows:
            own = found.get(row.label)
            by_image = dict(zip(own.images, own.values, strict=True)) if own else {}
            lines = [by_image.get(image, nothing) for image in names]
            for name, values in zip(OWN, zip(*lines, strict=True), strict=True):
                columns[f"{row.label} {name}"] = list(values)
        return columns
