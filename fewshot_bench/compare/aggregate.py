"""Records to the one table model: cells over seeds, averages over data sets, differences."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.compare.baseline import with_baseline
from fewshot_bench.compare.missing import commands, notes
from fewshot_bench.compare.mixing import CONDITIONS, assign_rows, condition, digest, refuse_mixed
from fewshot_bench.compare.model import AVERAGE, METRICS, Cell, Row, Seed, Status, Table
from fewshot_bench.compare.select import order
from fewshot_bench.compare.statistics import Estimate, estimate
from fewshot_bench.errors import UsageError
from fewshot_bench.record import Record

Columns = Callable[[Sequence[Record]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a table is asked to show; `method` and `dataset` are comma lists that give an order."""

    metric: str = "top1"
    baseline: str | None = None
    allow_mixed: bool = False
    method: str | None = None
    dataset: str | None = None
    store: str = "fsbench-results"


def build(
    records: Sequence[Record],
    options: Options | None = None,
    columns: Columns | None = None,
) -> Table:
    """The table of these records; UsageError when they must not stand in one table.

    columns: extra columns by title for the records of one line (hook `table_columns`).
    """
    options = options or Options()
    if any(record.spec.dataset == AVERAGE for record in records):
        raise UsageError(f"a data set is named '{AVERAGE}', as the mean over data sets: rename it")
    if not options.allow_mixed:
        refuse_mixed(records)
    rows = assign_rows(records)
    table = Table(
        rows=tuple(_ordered_rows(rows, options.method)),
        datasets=tuple(order(options.dataset, (record.spec.dataset for record in records))),
        shots=tuple(sorted({record.spec.shots for record in records})),
        seeds=tuple(sorted({seed_of(record) for record in records})),
        metric=options.metric,
        conditions=_conditions(records),
        records=len(records),
        cells={},
    )
    cells = _all_cells(table, rows, columns)
    table = dataclasses.replace(table, cells=cells, row_extra=_row_extra(table, rows, columns))
    if options.baseline:
        table = with_baseline(table, options.baseline)
    lines = tuple(commands(table, options.store))
    return dataclasses.replace(table, commands=lines, notes=tuple(notes(table)))


def seed_of(record: Record) -> Seed:
    """The pair of seeds of a record."""
    return Seed(record.spec.split_seed, record.spec.train_seed)


def _ordered_rows(rows: Mapping[str, tuple[Row, list[Record]]], names: str | None) -> list[Row]:
    methods = order(names, (row.spec.method for row, _ in rows.values()))
    labels = order(names, (row.spec.label for row, _ in rows.values()))
    place = {name: index for index, name in enumerate(labels if names else methods)}

    def key(row: Row) -> tuple[int, str]:
        return place[row.spec.label if names else row.spec.method], row.label

    return sorted((row for row, _ in rows.values()), key=key)


def _conditions(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    found = {}
    for name in CONDITIONS:
        values = tuple(sorted({condition(record.spec, name) for record in records}))
        if name == "weights":
            values = tuple(value[:12] for value in values if value)
        if values and not (name == "limit" and values == ("none",)):
            found[name] = values
    return found


def _all_cells(
    table: Table, rows: Mapping[str, tuple[Row, list[Record]]], columns: Columns | None
) -> dict[tuple[str, str, int], Cell]:
    groups: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for label, (_, members) in rows.items():
        for record in members:
            groups[record.spec.dataset, label, record.spec.shots].append(record)
    cells = {}
    for row in table.rows:
        has = {record.spec.shots > 0 for record in rows[row.label][1]}
        for shots in table.shots:
            expected = (shots > 0) in has  # a method without shots has a column of its own
            averaged: list[Cell] = []
            for dataset in table.datasets:
                found = groups.get((dataset, row.label, shots), [])
                cell = _cell(table, dataset, row, shots, found, columns)
                cell = dataclasses.replace(cell, expected=expected)
                cells[dataset, row.label, shots] = cell
                averaged.append(cell)
            average = dataclasses.replace(
                _average(row, shots, averaged, table.metric), expected=expected
            )
            cells[AVERAGE, row.label, shots] = average
    return cells


def _cell(
    table: Table,
    dataset: str,
    row: Row,
    shots: int,
    records: Sequence[Record],
    columns: Columns | None,
) -> Cell:
    done = [record for record in records if record.status == "done"]
    failed = [record for record in records if record.status == "failed"]
    _refuse_duplicates(records)
    present = {seed_of(record) for record in records}
    missing = tuple(seed for seed in table.seeds if seed not in present)
    series = {metric: _series(done, metric) for metric in METRICS}
    values = series[table.metric]
    reason = "" if values or failed or not done else f"no record has the metric {table.metric}"
    return Cell(
        dataset=dataset,
        row=row,
        shots=shots,
        status=_status(bool(values), bool(failed), bool(missing)),
        estimates=_estimates(series),
        series=series,
        splits=dict(sorted((seed_of(record), digest(record)) for record in done)),
        missing_seeds=missing,
        failed=len(failed),
        errors=tuple(sorted({_error(record) for record in failed})),
        reason=reason,
        trained=_mean(done, "footprint", "trained"),
        billed=_mean(done, "timings", "billed_seconds"),
        memory=max(_numbers(done, "footprint", "peak_memory_mb"), default=None),
        verified=_verified(done),
        extra=columns(records) if columns and records else {},
    )


def _status(values: bool, failed: bool, missing: bool) -> Status:
    if values:
        return "partial" if failed or missing else "done"
    return "failed" if failed else "missing"


def _refuse_duplicates(records: Sequence[Record]) -> None:
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


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _series(records: Iterable[Record], metric: str) -> dict[Seed, float]:
    values = {seed_of(record): _number(record.metrics.get(metric)) for record in records}
    return {seed: value for seed, value in sorted(values.items()) if value is not None}


def _estimates(series: Mapping[str, Mapping[Seed, float]]) -> dict[str, Estimate]:
    found = {metric: estimate(list(values.values())) for metric, values in series.items()}
    return {metric: value for metric, value in found.items() if value is not None}


def _numbers(records: Iterable[Record], part: str, name: str) -> list[float]:
    values = [_number(getattr(record, part).get(name)) for record in records]
    return [value for value in values if value is not None]


def _mean(records: Iterable[Record], part: str, name: str) -> float | None:
    return _mean_of(_numbers(records, part, name))


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean, the very value when all are equal; None when one is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else math.fsum(known) / len(known)


def _verified(records: Sequence[Record]) -> bool | None:
    found = {record.split.get("verified") for record in records}
    if not found or found == {None}:
        return None
    return found == {True}


def _average(row: Row, shots: int, cells: Sequence[Cell], metric: str) -> Cell:
    """The mean over data sets, per seed first; missing unless every data set has the same seeds."""
    average = Cell(AVERAGE, row, shots, "missing")
    holes = [cell.dataset for cell in cells if cell.status in ("missing", "failed")]
    if holes:
        return dataclasses.replace(average, reason=f"no result on {', '.join(holes)}")
    if len({frozenset(cell.splits) for cell in cells}) > 1:
        return dataclasses.replace(average, reason=_unequal_seeds(cells))
    series = {metric: _average_series(cells, metric) for metric in METRICS}
    if not series[metric]:
        return dataclasses.replace(
            average, reason=f"the metric {metric} is not there for all seeds"
        )
    splits: dict[Seed, Hashable] = {
        seed: tuple(cell.splits[seed] for cell in cells) for seed in cells[0].splits
    }
    memory = [cell.memory for cell in cells]
    whole = all(cell.status == "done" for cell in cells)
    return dataclasses.replace(
        average,
        status="done" if whole else "partial",
        estimates=_estimates(series),
        series=series,
        splits=splits,
        missing_seeds=tuple(sorted({seed for cell in cells for seed in cell.missing_seeds})),
        failed=sum(cell.failed for cell in cells),
        trained=_mean_of([cell.trained for cell in cells]),
        billed=_mean_of([cell.billed for cell in cells]),
        memory=max((value for value in memory if value is not None), default=None),
    )


def _unequal_seeds(cells: Sequence[Cell]) -> str:
    by_seeds: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        by_seeds[",".join(map(str, cell.splits))].append(cell.dataset)
    usual = max(by_seeds, key=lambda seeds: len(by_seeds[seeds]))
    names = by_seeds.pop(usual)
    parts = [f"{seeds} on {', '.join(others)}" for seeds, others in by_seeds.items()]
    where = f"on {', '.join(names)}" if len(names) <= 2 else "elsewhere"
    return f"seeds differ: {'; '.join([*parts, f'{usual} {where}'])}"


def _average_series(cells: Sequence[Cell], metric: str) -> dict[Seed, float]:
    parts = [cell.series.get(metric, {}) for cell in cells]
    if len({frozenset(part) for part in parts}) > 1:
        return {}
    return {seed: math.fsum(part[seed] for part in parts) / len(parts) for seed in parts[0]}


def _row_extra(
    table: Table, rows: Mapping[str, tuple[Row, list[Record]]], columns: Columns | None
) -> dict[tuple[str, str], Mapping[str, Any]]:
    if columns is None:
        return {}
    found = {}
    for label, (_, members) in rows.items():
        found[AVERAGE, label] = columns(members)
        for dataset in table.datasets:
            part = [record for record in members if record.spec.dataset == dataset]
            found[dataset, label] = columns(part) if part else {}
    return found
