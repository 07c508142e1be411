"""The model of a table, which every output is rendered from: its axes, its cells, and itself."""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import NOT_OBSERVED
from fewshot_bench.api.spec import TOY, RunSpec
from fewshot_bench.api.violations import VIOLATIONS

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.paired import Comparison
    from fewshot_bench.analysis.statistics.variance import Components
    from fewshot_bench.analysis.table.costs import Cost
    from fewshot_bench.api.record import Record

AVERAGE = "average"
LEVEL = 0.05
Scope = Literal["all", "base", "new", "H", "transfer"]
Status = Literal["done", "partial", "failed", "missing", "inapplicable"]


class Seed(NamedTuple):
    """Split seed and training seed of a run; shown as one number when both are equal."""

    split: int
    train: int

    @classmethod
    def of(cls, record: Record) -> Seed:
        """The seeds of a record."""
        return cls(record.spec.split_seed, record.spec.train_seed)

    def __str__(self) -> str:
        return str(self.split) if self.split == self.train else f"{self.split}/{self.train}"


@dataclass(frozen=True, slots=True)
class Group:
    """The subject of one block of a table: an evaluation, or a mean of several.

    `scope` is the kind of evaluation: all classes, the base or the new ones, the harmonic mean of
    these two (H), or transfer from `dataset` (fitted on) to `target`. An average is over groups of
    one scope; its `dataset` is empty unless transfers are averaged per source data set. `shots` and
    `seeds` are those that the table expects for this kind of evaluation. `shown` is the new name of
    a renamed group.
    """

    label: str
    scope: Scope
    dataset: str = ""
    target: str = ""
    average: bool = False
    shots: tuple[int, ...] = ()
    seeds: tuple[Seed, ...] = ()
    shown: str = ""

    @property
    def name(self) -> str:
        """The name in tables: the label, unless it was renamed."""
        return self.shown or self.label

    @property
    def derived(self) -> bool:
        """True for averages and harmonic means, which are computed from other groups."""
        return self.average or self.scope == "H"

    def averages(self, other: Group) -> bool:
        """True when this is an average that includes `other`."""
        same = not other.average and other.scope == self.scope
        return self.average and same and self.dataset in ("", other.dataset)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a method as configured, under one set of conditions.

    stated: the marks that its records state, of `STATED`. group: the title that it stands under
    with others. ours: whether it stands out. source: that of its records (`Record.source`).
    """

    label: str
    spec: RunSpec
    stated: tuple[str, ...] = ()
    group: str = ""
    ours: bool = False
    source: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks that qualify a comparison of this row with another."""
        return unfair_or_limited(self.spec) + self.stated

    @property
    def title(self) -> str:
        """The label with its marks."""
        return f"{self.label} ({', '.join(self.marks)})" if self.marks else self.label


# Marks that follow from records, beside violations of their cards: whose costs are unknown.
NOT_METERED = "work not metered"
TRAINED_UNKNOWN = "trained parameters not observed"
# An entry of records, the value (or an element of the list) that is marked, and the mark.
STATED: tuple[tuple[str, object, str], ...] = (
    *(("footprint.violations", name, name) for name in VIOLATIONS),
    ("footprint.metered", False, NOT_METERED),
    ("footprint.trained_source", NOT_OBSERVED, TRAINED_UNKNOWN),
)


def marks_of(spec: RunSpec, stated: Sequence[str] = ()) -> list[str]:
    """Marks of a number in CSV and JSON, including the one for the toy backbone."""
    toy = ["toy backbone"] if spec.backbone == TOY else []
    return [*unfair_or_limited(spec), *stated, *toy]


def unfair_or_limited(spec: RunSpec) -> tuple[str, ...]:
    """Marks of numbers with unfair validation or on some test images."""
    unfair = ("unfair validation",) if spec.val == "full" else ()
    limited = (f"limited to {spec.limit}",) if spec.limit is not None else ()
    return unfair + limited


def marks_of_seeds(seeds: Collection[Seed]) -> list[str]:
    """The mark of runs that share support sets or training seeds: fewer draws than runs."""
    shared = any(len(set(part)) < len(seeds) for part in zip(*seeds, strict=True))
    return ["crossed seeds"] if shared else []


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

    `records` are the finished ones by seed, of an evaluated group alone. `costs` maps names of
    `columns.COSTS` to values, `series` each metric to its values per seed, `splits` the seed to the
    split's digest. `own_data` holds the user's own-data options (`classnames`, `templates`,
    `holdout`); `no_delta` is the reason why a difference to the baseline is inapplicable.
    """

    group: Group
    row: Row
    shots: int
    status: Status
    estimates: Mapping[str, Estimate] = field(default_factory=dict)
    series: Mapping[str, Mapping[Seed, float]] = field(default_factory=dict)
    splits: Mapping[Seed, Hashable] = field(default_factory=dict)
    records: Mapping[Seed, Record] = field(default_factory=dict)
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
class Contrast:
    """A row against the baseline, in one group or over all; `adjusted` is its p after Holm."""

    row: str
    shots: int
    group: str
    result: Comparison
    adjusted: float

    @property
    def significant(self) -> bool:
        """True if the difference is significant at 5 % after the correction."""
        return self.adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class Standing:
    """A row against the baseline over all data sets at one number of shots.

    wins, ties, losses: numbers of data sets, by adjusted p-values. signed_rank: Wilcoxon's p over
    data sets, None for fewer than six. left_out: data sets that could not be paired.
    """

    overall: Contrast
    wins: int
    ties: int
    losses: int
    signed_rank: float | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows with a number on every data set, best first, with average ranks (1 is best).

    p: Friedman's. critical: Nemenyi's critical difference at 5 %. cliques: groups of rows whose
    ranks differ by less than that, best first.
    """

    shots: int
    datasets: int
    rows: tuple[str, ...]
    ranks: tuple[float, ...]
    p: float
    critical: float
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest detectable difference: one below `points` is missed more than one time in five.

    Computed for the row with the median standard error among the compared ones, with its `seeds`.
    Rows whose differences to the baseline do not vary are ignored.
    """

    group: str
    shots: int
    points: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Lacking:
    """A row with fewer tested seeds in a group than its difference to the baseline has."""

    row: str
    shots: int
    group: str
    tested: int
    seeds: int


@dataclass(frozen=True)
class Significance:
    """All comparisons of a table with its baseline."""

    contrasts: tuple[Contrast, ...] = ()
    standings: tuple[Standing, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    detectable: tuple[Detectable, ...] = ()
    lacking: tuple[Lacking, ...] = ()

    @functools.cached_property
    def by_cell(self) -> dict[tuple[str, str, int], Contrast]:
        """Contrasts by group (empty for all data sets), row and shots."""
        # An average is over all data sets, so a test over only some of them does not apply to it.
        overall = (part.overall for part in self.standings if not part.left_out)
        return {(part.group, part.row, part.shots): part for part in (*self.contrasts, *overall)}


@dataclass(frozen=True, slots=True)
class Variation:
    """The variance components of one cell; `problem` is the reason if they are None."""

    row: str
    group: str
    shots: int
    components: Components | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Methods x shots in every group: evaluated groups first, then the averages.

    `metric` is the name of the main metric, `metrics` all metrics that cells may have. `columns`
    are the requested columns (None: the default ones), `sort` is the metric or cost that the lines
    of every group are sorted by. `significance` requires a baseline and logits. `signatures` holds
    lines that `signature.parse` reads: that of all records under "", and on request one per group
    under its label. `renamed`: new names of methods and data sets by the old ones. `costs`: those
    that cells have. `store`: the folder, for commands.
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
    renamed: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    store: str = ""

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

    def plain_groups(self, shots: int) -> list[Group]:
        """Groups evaluated on all classes of their own data set, at this number of shots."""
        return [g for g in self.groups if g.scope == "all" and not g.average and shots in g.shots]

    def contrast(self, cell: Cell) -> Contrast | None:
        """The test of a cell; for an average, the one over all data sets. None if untested.

        Also None for a missing average: the test would be over different seeds per data set.
        """
        group = cell.group
        if self.significance is None or group.scope not in ("all", "H"):
            return None
        if group.average and cell.delta is None:
            return None
        label = "" if group.average and group.scope == "all" else group.label
        return self.significance.by_cell.get((label, cell.row.label, cell.shots))

    def signature(self, seeds: tuple[Seed, ...]) -> str:
        """The footer below numbers over these seeds: conditions, record count and seeds."""
        parts = [f"{name} {'|'.join(values)}" for name, values in self.conditions.items()]
        records = f"{self.records} record{'s' if self.records != 1 else ''}"
        return "; ".join([*parts, records, f"seeds {','.join(map(str, seeds))}"])
