"""Records of one method in one group at one number of shots: a cell over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.conditions import digest
from fewshot_bench.analysis.statistics.intervals import Estimate, estimate
from fewshot_bench.analysis.table.costs import COSTS, number
from fewshot_bench.analysis.table.model import Cell, Group, Row, Seed, Short, Status
from fewshot_bench.api.metrics import Metric
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError

_SMALLEST = ("smallest_class", "short_val")

Columns = Callable[[Sequence[Record]], Mapping[str, Any]]


def seed_of(record: Record) -> Seed:
    """The pair of seeds of a record."""
    return Seed(record.spec.split_seed, record.spec.train_seed)


def own_cell(
    group: Group,
    row: Row,
    shots: int,
    records: Sequence[Record],
    metric: str,
    metrics: Mapping[str, Metric],
    columns: Columns | None,
) -> Cell:
    """The cell of these records; UsageError when two are of the same seeds.

    A cell without any number is inapplicable as soon as one record says so: it can never be had,
    so no seed of it is missing.
    """
    refuse_duplicates(records)
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    inapplicable = [record for record in records if record.status == "inapplicable"]
    by_seed = {seed_of(record): record for record in sorted(done, key=seed_of)}
    series = {name: series_of(by_seed, name) for name in metrics}
    present = {seed_of(record) for record in records}
    missing = tuple(seed for seed in group.seeds if seed not in present)
    if inapplicable and not done:
        missing = ()
    holes = bool(failed or missing or inapplicable)
    status = _status(bool(series[metric]), holes, bool(failed), bool(inapplicable and not done))
    return Cell(
        group=group,
        row=row,
        shots=shots,
        status=status,
        estimates=estimates(series),
        series=series,
        splits={seed: digest(record) for seed, record in by_seed.items()},
        missing_seeds=missing,
        failed=len(failed),
        errors=tuple(sorted({_error(record) for record in failed})),
        reason=_reason(series[metric], done, failed, inapplicable, metric),
        costs={name: column.of(done) for name, column in COSTS.items()},
        verified=_verified(done),
        short=_short(done),
        extra=extra_columns(columns, records),
    )


def extra_columns(columns: Columns | None, records: Sequence[Record]) -> Mapping[str, Any]:
    """The plug-ins' columns of these records; none for what is inapplicable."""
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
        seeds = ",".join(map(str, sorted(map(seed_of, inapplicable))))
        return "; ".join(reasons) + (f" (seeds {seeds})" if done else "")
    if done and not values and not failed:
        return f"no record has the metric {metric}"
    return ""


def inapplicable_reason(record: Record) -> str:
    """Why the method cannot be asked for this cell."""
    return str((record.error or {}).get("message") or "not applicable")


def refuse_duplicates(records: Iterable[Record]) -> None:
    """UsageError where two records are of one pair of seeds."""
    seen: dict[Seed, Record] = {}
    for record in records:
        other = seen.setdefault(seed_of(record), record)
        if other is not record:
            raise UsageError(
                f"two records of {record.spec.describe()}: {other.spec.key()[:12]} and "
                f"{record.spec.key()[:12]}; keep one of the two files in the store"
            )


def _error(record: Record) -> str:
    return str((record.error or {}).get("type") or "unknown error")


def series_of(records: Mapping[Seed, Record], metric: str) -> dict[Seed, float]:
    """The metric by seed, without those that have no finite number."""
    values = {seed: number(record.metrics.get(metric)) for seed, record in records.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def estimates(series: Mapping[str, Mapping[Seed, float]]) -> dict[str, Estimate]:
    """Mean and interval of every metric that has values."""
    found = {metric: estimate(list(values.values())) for metric, values in series.items()}
    return {metric: value for metric, value in found.items() if value is not None}


def _verified(records: Sequence[Record]) -> bool | None:
    found = {record.split.get("verified") for record in records}
    if not found or found == {None}:
        return None
    return found == {True}


def _short(records: Sequence[Record]) -> Short:
    """Of records that have it, and a support set."""
    found = []
    for split in (record.split for record in records if record.spec.shots):
        classes = split.get("fitted_classes") or split.get("classes")
        values = (split.get("short_classes"), classes, *map(split.get, _SMALLEST))
        found.append(Short(*(int(number(value) or 0) for value in values)))
    return max(found, key=lambda one: (one.classes, one.val), default=Short())
