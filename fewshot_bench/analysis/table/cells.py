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

from fewshot_bench.analysis.statistics.intervals import Estimate, estimate_runs, rounded
from fewshot_bench.analysis.table.columns import COSTS, number
from fewshot_bench.analysis.table.table import Cell, Group, Row, Seed, Short, Status
from fewshot_bench.api.metrics import Metric
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError

Columns = Callable[[Sequence[Record]], Mapping[str, Any]]
Series = Mapping[Seed, float]
Metrics = Mapping[str, Metric]

READ_SHORT = (
    *("split.short_classes", "split.fitted_classes", "split.classes"),
    *("split.smallest_class", "split.short_val"),
)


def columns_to_read() -> tuple[str, ...]:
    """Columns of the frame that cells need, in the order of the arguments of `Member`."""
    return "split", "split.verified", *READ_SHORT, *(cost.source for cost in COSTS.values())


class Member:
    """A record in a cell, with those of its facts that the cell shows."""

    __slots__ = ("costs", "numbers", "record", "seed", "short", "split", "verified")

    def __init__(
        self,
        record: Record,
        numbers: Mapping[str, Any],
        split: str,
        verified: bool | None,
        *facts: Any,
    ) -> None:
        """numbers: metrics by name. facts: those of `READ_SHORT`, then the costs."""
        self.record = record
        self.numbers = numbers
        self.seed = Seed.of(record)
        self.split = split
        self.verified = verified
        self.short = facts[: len(READ_SHORT)]
        self.costs = facts[len(READ_SHORT) :]


def own_cell(
    group: Group,
    row: Row,
    shots: int,
    members: Sequence[Member],
    metric: str,
    metrics: Metrics,
    columns: Columns | None,
) -> Cell:
    """The cell of these records; UsageError when two have the same seeds.

    A cell without finished records is inapplicable if any record is: no run can compute it, so none
    of its seeds counts as missing.
    """
    present = by_seeds(member.record for member in members)
    done = [m for m in members if m.record.status == "done"]
    done.sort(key=lambda member: member.seed)
    failed = [m.record for m in members if m.record.status == "failed"]
    inapplicable = [m.record for m in members if m.record.status == "inapplicable"]
    records = {member.seed: member.record for member in done}
    series = {name: _series(done, name) for name in metrics}
    missing = tuple(seed for seed in group.seeds if seed not in present)
    if inapplicable and not done:
        missing = ()
    status: Status = "failed" if failed else "missing"
    if series[metric]:
        status = "partial" if failed or missing or inapplicable else "done"
    elif inapplicable and not done:
        status = "inapplicable"
    verified = {member.verified for member in done}
    return Cell(
        group=group,
        row=row,
        shots=shots,
        status=status,
        estimates=estimates(series),
        series=series,
        splits={member.seed: member.split for member in done},
        records=records,
        missing_seeds=missing,
        failed=len(failed),
        errors=tuple(sorted({_error(record) for record in failed})),
        reason=_reason(series[metric], records, failed, inapplicable, metric),
        costs=_costs(done),
        verified=None if verified <= {None} else verified == {True},
        short=most_short(short_of(*member.short) for member in done) if shots else Short(),
        extra=extra_columns(columns, [member.record for member in members]),
    )


def _costs(done: Sequence[Member]) -> dict[str, float | None]:
    costs = {}
    for index, (name, cost) in enumerate(COSTS.items()):
        numbers = [number(member.costs[index]) for member in done]
        costs[name] = cost.together([value for value in numbers if value is not None])
    return costs


def extra_columns(columns: Columns | None, records: Sequence[Record]) -> Mapping[str, Any]:
    """The plug-ins' columns of these records, without inapplicable ones."""
    applicable = [record for record in records if record.status != "inapplicable"]
    return columns(applicable) if columns and applicable else {}


def _reason(
    series: Series,
    done: Mapping[Seed, Record],
    failed: Sequence[Record],
    inapplicable: Sequence[Record],
    metric: str,
) -> str:
    if inapplicable:
        reasons = sorted({inapplicable_reason(record) for record in inapplicable})
        seeds = ",".join(map(str, sorted(map(Seed.of, inapplicable))))
        return "; ".join(reasons) + (f" (seeds {seeds})" if done else "")
    if done and not series and not failed:
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


def _series(members: Iterable[Member], metric: str) -> dict[Seed, float]:
    """The metric by seed, without seeds that lack a finite value."""
    numbers = {member.seed: number(member.numbers.get(metric)) for member in members}
    return {seed: value for seed, value in numbers.items() if value is not None}


def estimates(series: Mapping[str, Series]) -> dict[str, Estimate]:
    """Mean and interval of every metric that has values."""
    every = {metric: estimate_runs(own) for metric, own in series.items()}
    return {metric: estimate for metric, estimate in every.items() if estimate is not None}


def short_of(short: Any, fitted: Any, classes: Any, smallest: Any, val: Any) -> Short:
    """The short classes of a record, of its entries `READ_SHORT`."""
    return Short(*(int(number(n) or 0) for n in (short, fitted or classes, smallest, val)))


def most_short(shorts: Iterable[Short]) -> Short:
    """Short classes of the seed with the most of them."""
    return max(dict.fromkeys(shorts), key=lambda short: (short.classes, short.val), default=Short())


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
    return _combine(empty, cells, series, cells[0].splits)


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
    series: dict[str, Series] = {}
    for name, about in metrics.items():
        base, new = (half.series.get(name, {}) for half in halves)
        negative = min([*base.values(), *new.values()], default=0) < 0
        both = () if negative or not about.higher_is_better else base.keys() & new.keys()
        series[name] = {
            seed: rounded(harmonic_mean(base[seed], new[seed])) for seed in base if seed in both
        }
        if name == metric and not both:
            below = "a harmonic mean of numbers below zero says nothing"
            reason = below if negative else _unequal_seeds(halves)
            return dataclasses.replace(empty, reason=reason)
    return _combine(empty, halves, series, series[metric])


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


def _combine(
    empty: Cell, cells: Sequence[Cell], series: Mapping[str, Series], seeds: Iterable[Seed]
) -> Cell:
    """The cell of these ones' mean, which has the splits of all of them at the seeds."""
    splits: dict[Seed, Hashable] = {
        seed: tuple(cell.splits[seed] for cell in cells) for seed in seeds
    }
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
            name: cost.together([cell.costs.get(name) for cell in cells])
            for name, cost in COSTS.items()
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


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n) of two accuracies; 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0
