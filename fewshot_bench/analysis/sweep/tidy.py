"""The sweep as tidy rows: CSV and JSON."""

from __future__ import annotations

from typing import Any

from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.sweep.model import Sweep
from fewshot_bench.api.spec import TOY


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per cell; None where there is no number. Options have columns of their names."""
    found = []
    for panel in sweep.panels:
        for cell in panel.cells.values():
            value = cell.estimate
            found.append(
                {
                    "dataset": panel.group,
                    "method": sweep.title,
                    "shots": panel.shots,
                    **{f"option_{name}": chosen for name, chosen in cell.options.items()},
                    "metric": sweep.metric.name,
                    "mean": None if value is None else round(value.mean, 6),
                    "ci95": None if value is None or value.half is None else round(value.half, 6),
                    "min": None if value is None else round(value.least, 6),
                    "max": None if value is None else round(value.most, 6),
                    "n_seeds": 0 if value is None else value.n,
                    "status": cell.status,
                    "missing": list(cell.missing),
                    "marks": ["toy backbone"] if sweep.conditions["backbone"] == TOY else [],
                }
            )
    return found


def document(sweep: Sweep) -> Document:
    """The rows, and `meta` about all of them."""
    found = rows(sweep)
    meta = {
        "method": sweep.title,
        "metric": sweep.metric.name,
        "columns": sweep.columns.name,
        "rows": sweep.rows.name if sweep.rows else None,
        "panels": [axis.name for axis in sweep.others],
        "defaults": {
            axis.name: axis.default
            for axis in (sweep.columns, *([sweep.rows] if sweep.rows else []), *sweep.others)
        },
        "conditions": dict(sweep.conditions),
        "notes": list(sweep.notes),
        "signature": sweep.signature,
    }
    return Document(rows=found, data={"meta": meta, "rows": found})
