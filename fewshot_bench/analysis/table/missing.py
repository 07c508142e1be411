"""The cells of a table that do not exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fewshot_bench.analysis.table.model import Table
from fewshot_bench.api.spec import RunSpec


def missing_cells(table: Table) -> Iterator[RunSpec]:
    """What no record is there of, though the table has a place for it.

    Without what a run finds out itself: revisions, and which picks were imported.
    """
    for cell in table.cells.values():
        group = cell.group
        if group.derived or not cell.expected:
            continue
        for seed in cell.missing_seeds:
            yield replace(
                cell.row.spec,
                dataset=group.dataset,
                target=group.target,
                classes=group.scope if group.scope in ("base", "new") else "all",
                shots=cell.shots,
                split_seed=seed.split,
                train_seed=seed.train,
                data=cell.own_data,
                revision="",
                target_revision="",
                picks="",
            )
