"""Failed, missing and inapplicable cells, and records that were not used."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.table.model import Table
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.grid import Column, Field, Grid, Line

MOST = 200


def failures(records: Sequence[Record]) -> Grid | None:
    """Failed cells with the type and the message of their errors; None without any."""
    failed = [record for record in records if record.status == "failed"]
    failed.sort(key=lambda r: (r.spec.label, r.spec.evaluated, r.spec.shots, r.spec.split_seed))
    lines = []
    for record in failed[:MOST]:
        error, spec = record.error or {}, record.spec
        seeds = f"{spec.split_seed}/{spec.train_seed}"
        seed = str(spec.split_seed) if spec.split_seed == spec.train_seed else seeds
        lines.append(
            Line(
                [
                    Field(text.name(spec.label)),
                    Field(text.name(spec.evaluated)),
                    Field(str(spec.shots)),
                    Field(seed),
                    Field(text.name(str(error.get("type") or "unknown error"))),
                    Field(text.message(str(error.get("message") or ""))),
                ]
            )
        )
    columns = [Column("method", False), Column("data set", False), Column("shots")]
    columns += [Column("seed"), Column("error", False), Column("message", False)]
    some = f", the first {MOST} of them" if len(failed) > MOST else ""
    caption = f"{text.counted(len(failed), 'failed run')}{some}"
    return Grid("failures", caption, columns, lines, True) if lines else None


def holes(table: Table) -> Grid | None:
    """Cells without any number, or with fewer seeds than others; None if all are complete."""
    lines = []
    for cell in table.cells.values():
        whole = cell.status == "done" and not cell.missing_seeds
        if cell.group.derived or not cell.expected or whole:
            continue
        seeds = ",".join(map(str, cell.missing_seeds))
        what = {"partial": "some seeds", "inapplicable": "cannot be asked"}
        why = cell.reason or (f"no record for seeds {seeds}" if seeds else "")
        why = why or (f"{cell.failed} failed: {', '.join(cell.errors)}" if cell.failed else "")
        lines.append(
            Line(
                [
                    Field(text.name(cell.row.title)),
                    Field(text.name(cell.group.label)),
                    Field(str(cell.shots)),
                    Field(what.get(cell.status, cell.status)),
                    Field(text.message(why)),
                ]
            )
        )
    columns = [Column("method", False), Column("data set", False), Column("shots")]
    columns += [Column("what", False), Column("why", False)]
    some = f", the first {MOST} of them" if len(lines) > MOST else ""
    caption = f"{text.counted(len(lines), 'cell')} not complete{some}"
    return Grid("holes", caption, columns, lines[:MOST], True) if lines else None
