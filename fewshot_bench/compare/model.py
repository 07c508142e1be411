"""The table model that every output is rendered from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fewshot_bench.compare.statistics import Estimate
from fewshot_bench.spec import RunSpec

AVERAGE = "average"
METRICS = {"top1": "top-1 accuracy", "macro_accuracy": "macro accuracy"}
Status = Literal["done", "partial", "failed", "missing"]


@dataclass(frozen=True, order=True, slots=True)
class Seed:
    """The pair of seeds of a run; tables show one number when both are equal."""

    split: int
    train: int

    def __str__(self) -> str:
        return str(self.split) if self.split == self.train else f"{self.split}/{self.train}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a method as configured, under one set of conditions."""

    label: str
    spec: RunSpec

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader must know before comparing this row with another."""
        unfair = ("unfair validation",) if self.spec.val == "full" else ()
        limited = (f"limited to {self.spec.limit}",) if self.spec.limit is not None else ()
        return unfair + limited

    @property
    def title(self) -> str:
        """The label with its marks."""
        return f"{self.label} ({', '.join(self.marks)})" if self.marks else self.label


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one data set (or on average) at one number of shots, over its seeds.

    `series` holds each metric per seed, `splits` the split's digest per seed.
    """

    dataset: str
    row: Row
    shots: int
    status: Status
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    series: Mapping[str, Mapping[Seed, float]] = field(default_factory=dict)
    splits: Mapping[Seed, Hashable] = field(default_factory=dict)
    missing_seeds: tuple[Seed, ...] = ()
    failed: int = 0
    errors: tuple[str, ...] = ()
    reason: str = ""
    expected: bool = True
    trained: float | None = None
    billed: float | None = None
    memory: float | None = None
    verified: bool | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    delta: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Methods x shots on every data set and on average."""

    rows: tuple[Row, ...]
    datasets: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[Seed, ...]
    metric: str
    conditions: Mapping[str, tuple[str, ...]]
    records: int
    cells: Mapping[tuple[str, str, int], Cell]
    row_extra: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    baseline: str | None = None
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The data sets, then `average`."""
        return (*self.datasets, AVERAGE)

    def cell(self, dataset: str, row: Row, shots: int) -> Cell:
        """The cell of a data set (or `average`), a row and a number of shots."""
        return self.cells[dataset, row.label, shots]

    @property
    def signature(self) -> str:
        """The conditions that all numbers of the table share, for the line under it."""
        parts = [f"{name} {'|'.join(values)}" for name, values in self.conditions.items()]
        records = f"{self.records} record{'s' if self.records != 1 else ''}"
        return "; ".join([*parts, records, f"seeds {','.join(map(str, self.seeds))}"])
