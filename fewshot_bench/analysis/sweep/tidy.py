"""The sweep as tidy rows: CSV and JSON."""

from __future__ import annotations

import json
from typing import Any

from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.analysis.sweep.model import Sweep
from fewshot_bench.api.shots import plain
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


def render_csv(sweep: Sweep) -> str:
    """The rows as CSV; what is missing is empty."""
    return write_csv(rows(sweep), ())


def render_json(sweep: Sweep) -> str:
    """The rows, and `meta` about all of them."""
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
    document = plain({"meta": meta, "rows": rows(sweep)})
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
