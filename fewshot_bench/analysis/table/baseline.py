"""Differences to one row of the table, paired on identical splits."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from fewshot_bench.analysis.statistics.intervals import Estimate, paired
from fewshot_bench.analysis.table.model import Cell, Row, Table
from fewshot_bench.utils.errors import UsageError, unknown


def with_baseline(table: Table, name: str) -> Table:
    """The table with a difference to the row `name` in every other cell that allows one."""
    baseline = _find_row(table, name)
    cells = dict(table.cells)
    for key, cell in table.cells.items():
        if cell.row is not baseline:
            other = table.cell(cell.group, baseline, cell.shots)
            reasons = [part.reason for part in (cell, other) if part.status == "inapplicable"]
            cells[key] = dataclasses.replace(
                cell,
                delta=_difference(cell, other, table.metric),
                no_delta="; ".join(dict.fromkeys(reasons)),
            )
    return dataclasses.replace(table, cells=cells, baseline=baseline.label)


def _difference(cell: Cell, other: Cell, metric: str) -> Estimate | None:
    ours, theirs = cell.series.get(metric, {}), other.series.get(metric, {})
    same = {
        seed: _is_known(split) and split == other.splits.get(seed)
        for seed, split in cell.splits.items()
    }
    return paired(ours, theirs, same)


def _is_known(split: Hashable) -> bool:
    """Whether a record has a digest of its split, and all of them where a cell has several."""
    return all(map(_is_known, split)) if isinstance(split, tuple) else bool(split)


def _find_row(table: Table, name: str) -> Row:
    found = [row for row in table.rows if row.label == name]
    found = found or [row for row in table.rows if row.spec.method == name]
    if len(found) == 1:
        return found[0]
    labels = [row.label for row in table.rows]
    if not found:
        raise unknown("baseline", name, labels, "expected a method of the table")
    choices = ", ".join(f"'{row.label}'" for row in found)
    raise UsageError(f"baseline '{name}' is not one row of the table: choose one of {choices}")
