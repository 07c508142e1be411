"""Cells of a table: evaluated ones, from the records of a method in a group, and derived ones.

`own_cell` builds evaluated cells, `average` and `harmonic` derived ones. `status`, `errors`
and `reason` explain a cell without a number.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.record_columns import Codes, Facts, RecordColumns, Shared
from fewshot_bench.analysis.statistics.intervals import Estimate, estimate_runs, rounded
from fewshot_bench.analysis.table.axes import Group, Row, Seed
from fewshot_bench.analysis.table.columns import COSTS, costs_of, number
from fewshot_bench.analysis.table.model import Cell, Short, Status
from fewshot_bench.api.metrics import Metric
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError

_SMALLEST = ("smallest_class", "short_val")

Columns = Callable[[Sequence[Record]], Mapping[str, Any]]


def own_cell(
    group: Group,
    row: Row,
    shots: int,
    records: Sequence[Record],
    metric: str,
    metrics: Mapping[str, Metric],
    columns: Columns | None,
    facts: RecordColumns,
) -> Cell:
    """The cell of these records; UsageError when two have the same seeds.

    facts: columns of these and other records, with `FACTS`.

    A cell without finished records is inapplicable if any record is: no run can compute it, so none
    of its seeds counts as missing.
    """
    present = by_seeds(records)
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    inapplicable = [record for record in records if record.status == "inapplicable"]
    by_seed = {seed: record for seed, record in present.items() if record.status == "done"}
    series = {name: series_of(by_seed, name) for name in metrics}
    missing = tuple(seed for seed in group.seeds if seed not in present)
    if inapplicable and not done:
        missing = ()
    rows = facts.places(by_seed.values())
    holes = bool(failed or missing or inapplicable)
    status = _status(bool(series[metric]), holes, bool(failed), bool(inapplicable and not done))
    return Cell(
        group=group,
        row=row,
        shots=shots,
        status=status,
        estimates=estimates(series),
        series=series,
        splits=dict(zip(by_seed, facts["split"].taken(rows), strict=True)),
        missing_seeds=missing,
        failed=len(failed),
        errors=tuple(sorted({_error(record) for record in failed})),
        reason=_reason(series[metric], done, failed, inapplicable, metric),
        costs=costs_of(facts, rows),
        verified=_verified(facts, rows),
        short=most_short(facts["short"].taken(rows)) if shots else Short(),
        extra=extra_columns(columns, records),
    )


def extra_columns(columns: Columns | None, records: Sequence[Record]) -> Mapping[str, Any]:
    """The plug-ins' columns of these records, without inapplicable ones."""
    applicable = [record for record in records if record.status != "inapplicable"]
    return columns(applicable) if columns and applicable else {}


def _status(values: bool, holes: bool, failed: bool, inapplicable: bool) -> Status:
    if values:
        return "partial" if holes else "done"
    if inapplicable:
        return "inapplicable"
    return "failed" if failed else "missing"


def _reason(
    values: Mapping[Seed, float],
    done: Sequence[Record],
    failed: Sequence[Record],
    inapplicable: Sequence[Record],
    metric: str,
) -> str:
    if inapplicable:
        reasons = sorted({inapplicable_reason(record) for record in inapplicable})
        seeds = ",".join(map(str, sorted(map(Seed.of, inapplicable))))
        return "; ".join(reasons) + (f" (seeds {seeds})" if done else "")
    if done and not values and not failed:
        return f"no record has the metric {metric}"
    return ""


def inapplicable_reason(record: Record) -> str:
    """The method's reason why this cell is not applicable."""
    return str((record.error or {}).get("message") or "not applicable")


def by_seeds(records: Iterable[Record]) -> dict[Seed, Record]:
    """The records by their seeds, in order; UsageError if two have the same pair."""
    seen: dict[Seed, Record] = {}
    for record in records:
        other = seen.setdefault(Seed.of(record), record)
        if other is not record:
            raise UsageError(
                f"two records of {record.spec.describe()}: {other.spec.key()[:12]} and "
                f"{record.spec.key()[:12]}; keep one of the two files in the store"
            )
    return dict(sorted(seen.items()))


def _error(record: Record) -> str:
    return str((record.error or {}).get("type") or "unknown error")


def series_of(records: Mapping[Seed, Record], metric: str) -> dict[Seed, float]:
    """The metric by seed, without seeds that lack a finite value."""
    values = {seed: number(record.metrics.get(metric)) for seed, record in records.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def estimates(series: Mapping[str, Mapping[Seed, float]]) -> dict[str, Estimate]:
    """Mean and interval of every metric that has values."""
    found = {metric: estimate_runs(values) for metric, values in series.items()}
    return {metric: value for metric, value in found.items() if value is not None}


def _verified(facts: RecordColumns, rows: Codes) -> bool | None:
    found = set(facts["verified"].taken(rows))
    if not found or found == {None}:
        return None
    return found == {True}


def _short_classes(split: Mapping[str, Any]) -> Short:
    classes = split.get("fitted_classes") or split.get("classes")
    values = (split.get("short_classes"), classes, *map(split.get, _SMALLEST))
    return Short(*(int(number(value) or 0) for value in values))


def most_short(found: Iterable[Short]) -> Short:
    """Short classes of the seed with the most of them."""
    return max(dict.fromkeys(found), key=lambda one: (one.classes, one.val), default=Short())


# Facts of records, beside those of conditions, that their cell needs.
FACTS: Facts = {
    "verified": Shared("split facts", lambda split: split.get("verified")),
    "short": Shared("split facts", _short_classes),
}
Series = Mapping[Seed, float]
Metrics = Mapping[str, Metric]


def average(
    group: Group, row: Row, shots: int, cells: Sequence[Cell], metric: str, metrics: Metrics
) -> Cell:
    """The mean over groups, per seed first; missing unless every one has the same seeds."""
    empty = Cell(group, row, shots, "missing")
    if hole := _hole(empty, cells):
        return hole
    if len({frozenset(cell.splits) for cell in cells}) > 1:
        return dataclasses.replace(empty, reason=_unequal_seeds(cells))
    series = {name: _average_series(cells, name) for name in metrics}
    if not series[metric]:
        return dataclasses.replace(empty, reason=f"the metric {metric} is not there for all seeds")
    splits: dict[Seed, Hashable] = {
        seed: tuple(cell.splits[seed] for cell in cells) for seed in cells[0].splits
    }
    return _combined(empty, cells, series, splits)


def harmonic(
    group: Group, row: Row, shots: int, halves: tuple[Cell, Cell], metric: str, metrics: Metrics
) -> Cell:
    """The harmonic mean 2bn / (b + n) of base and new accuracy, per seed that has both.

    Metrics for which lower is better have none, nor do those with a value below zero.

    For averages, it is the harmonic mean of the average base and the average new accuracy, as in
    CoCoOp (Zhou et al., CVPR 2022, table 1), not the average of harmonic means.
    """
    empty = Cell(group, row, shots, "missing")
    if hole := _hole(empty, halves):
        return hole
    base, new = halves
    series = {
        name: _harmonic_series(base, new, name) if known.higher_is_better else {}
        for name, known in metrics.items()
    }
    if not series[metric]:
        below = any(_has_negative(cell, metric) for cell in halves)
        reason = _BELOW_ZERO if below else _unequal_seeds(halves)
        return dataclasses.replace(empty, reason=reason)
    splits: dict[Seed, Hashable] = {
        seed: (base.splits[seed], new.splits[seed]) for seed in series[metric]
    }
    return _combined(empty, halves, series, splits)


def without_counterpart(group: Group, row: Row, shots: int, odd: Sequence[Group]) -> Cell:
    """The missing cell of a harmonic mean whose two averages are over different data sets."""
    names = ", ".join(other.name for other in odd)
    reason = f"base and new are not of the same data sets: only one half of {names}"
    return Cell(group, row, shots, "missing", reason=reason)


def _hole(empty: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell without numbers if any part lacks them (no mean over the rest); else None."""
    inapplicable = [cell.reason for cell in cells if cell.status == "inapplicable"]
    if inapplicable:
        reason = "; ".join(dict.fromkeys(inapplicable))
        return dataclasses.replace(empty, status="inapplicable", reason=reason)
    holes = [cell for cell in cells if cell.status in ("missing", "failed")]
    if not holes:
        return None
    if all(cell.group.average for cell in holes):
        reason = "; ".join(dict.fromkeys(cell.reason for cell in holes))
    else:
        reason = f"no result on {', '.join(cell.group.name for cell in holes)}"
    return dataclasses.replace(empty, reason=reason)


def _combined(
    empty: Cell,
    cells: Sequence[Cell],
    series: Mapping[str, Series],
    splits: Mapping[Seed, Hashable],
) -> Cell:
    whole = all(cell.status == "done" and len(cell.splits) == len(splits) for cell in cells)
    return dataclasses.replace(
        empty,
        status="done" if whole else "partial",
        estimates=estimates(series),
        series=series,
        splits=splits,
        missing_seeds=tuple(sorted({seed for cell in cells for seed in cell.missing_seeds})),
        failed=sum(cell.failed for cell in cells),
        costs={
            name: column.together([cell.costs.get(name) for cell in cells])
            for name, column in COSTS.items()
        },
    )


def _unequal_seeds(cells: Sequence[Cell]) -> str:
    by_seeds: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        by_seeds[",".join(map(str, cell.splits))].append(cell.group.name)
    usual = max(by_seeds, key=lambda seeds: len(by_seeds[seeds]))
    names = by_seeds.pop(usual)
    parts = [f"{seeds} on {', '.join(others)}" for seeds, others in by_seeds.items()]
    where = f"on {', '.join(names)}" if len(names) <= 2 else "elsewhere"
    return f"seeds differ: {'; '.join([*parts, f'{usual} {where}'])}"


def _average_series(cells: Sequence[Cell], metric: str) -> dict[Seed, float]:
    parts = [cell.series.get(metric, {}) for cell in cells]
    if len({frozenset(part) for part in parts}) > 1:
        return {}
    return mean_series(parts, parts[0])


def mean_series(parts: Sequence[Series], seeds: Iterable[Seed]) -> dict[Seed, float]:
    """The mean of these series for each of the seeds, which all of them have."""
    return {seed: rounded(math.fsum(part[seed] for part in parts) / len(parts)) for seed in seeds}


def _harmonic_series(base: Cell, new: Cell, metric: str) -> dict[Seed, float]:
    ours, theirs = base.series.get(metric, {}), new.series.get(metric, {})
    if _has_negative(base, metric) or _has_negative(new, metric):
        return {}
    return {
        seed: rounded(harmonic_mean(ours[seed], theirs[seed])) for seed in ours if seed in theirs
    }


_BELOW_ZERO = "a harmonic mean of numbers below zero says nothing"


def _has_negative(cell: Cell, metric: str) -> bool:
    return any(value < 0 for value in cell.series.get(metric, {}).values())


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n) of two accuracies; 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
