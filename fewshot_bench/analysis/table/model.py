"""The table model that every output is rendered from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.axes import Group, Row, Seed
from fewshot_bench.analysis.table.groups import Names
from fewshot_bench.api.metrics import METRICS, Metric

if TYPE_CHECKING:
    from fewshot_bench.analysis.table.contrasts import Contrast, Significance, Variation

Status = Literal["done", "partial", "failed", "missing", "inapplicable"]


@dataclass(frozen=True, slots=True)
class Short:
    """Classes with fewer images than the shots, for the seed with the most of them.

    classes: their number, out of `of`. least: images of the smallest class. val: classes with
    fewer validation images than the policy asks for.
    """

    classes: int = 0
    of: int = 0
    least: int = 0
    val: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One method in one group at one number of shots, over its seeds.

    `costs` maps names of `columns.COSTS` to values, `series` each metric to its values per seed,
    `splits` the seed to the split's digest. `own_data` holds the user's own-data options
    (`classnames`, `templates`, `holdout`); `no_delta` is the reason why a difference to the
    baseline is inapplicable.
    """

    group: Group
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
    costs: Mapping[str, float | None] = field(default_factory=dict)
    verified: bool | None = None
    short: Short = Short()
    extra: Mapping[str, Any] = field(default_factory=dict)
    delta: Estimate | None = None
    no_delta: str = ""
    own_data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Methods x shots in every group: evaluated groups first, then the averages.

    `metric` is the name of the main metric, `metrics` all metrics that cells may have. `columns`
    are the requested columns (None: the default ones), `sort` is the metric or cost that the lines
    of every group are sorted by. `significance` requires a baseline and logits. `signatures` holds
    lines that `signature.parse` reads: that of all records under "", and on request one per group
    under its label.
    """

    rows: tuple[Row, ...]
    groups: tuple[Group, ...]
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
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    columns: tuple[str, ...] | None = None
    sort: str = ""
    signatures: Mapping[str, str] = field(default_factory=dict)
    significance: Significance | None = None
    variations: tuple[Variation, ...] = ()
    names: Names = field(default_factory=Names)

    @property
    def main(self) -> Metric:
        """The metric that is shown and ranked."""
        return self.metrics[self.metric]

    @property
    def datasets(self) -> tuple[str, ...]:
        """The evaluated data sets, as shown."""
        return tuple(group.name for group in self.groups if not group.derived)

    def shown(self, label: str) -> str:
        """The displayed name of the group with this label; the label itself if there is none."""
        return next((group.name for group in self.groups if group.label == label), label)

    def members(self, average: Group) -> tuple[Group, ...]:
        """The groups that an average is over."""
        return tuple(group for group in self.groups if average.averages(group))

    def cell(self, group: Group, row: Row, shots: int) -> Cell:
        """The cell of a group, a row and a number of shots."""
        return self.cells[group.label, row.label, shots]

    def line(self, group: Group, row: Row) -> list[Cell]:
        """The cells of a group and a row, by shots."""
        return [self.cell(group, row, shots) for shots in group.shots]

    def contrast(self, cell: Cell) -> Contrast | None:
        """The test of a cell; for an average, the one over all data sets. None if untested.

        Also None for a missing average: the test would be over different seeds per data set.
        """
        group = cell.group
        if self.significance is None or group.scope != "all":
            return None
        if group.average and cell.delta is None:
            return None
        label = "" if group.average else group.label
        return self.significance.by_place.get((label, cell.row.label, cell.shots))

    def signature(self, seeds: tuple[Seed, ...]) -> str:
        """The footer below numbers over these seeds: conditions, record count and seeds."""
        parts = [f"{name} {'|'.join(values)}" for name, values in self.conditions.items()]
        records = f"{self.records} record{'s' if self.records != 1 else ''}"
        return "; ".join([*parts, records, f"seeds {','.join(map(str, seeds))}"])
