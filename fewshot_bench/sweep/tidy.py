"""The sweep as tidy rows: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from fewshot_bench.compare.tidy import FORMULAS
from fewshot_bench.sweep.model import Sweep
from fewshot_bench.wording import printable


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
                    "metric": sweep.metric,
                    "mean": None if value is None else round(value.mean, 6),
                    "ci95": None if value is None or value.half is None else round(value.half, 6),
                    "n_seeds": 0 if value is None else value.n,
                    "status": cell.status,
                    "missing": list(cell.missing),
                }
            )
    return found


def render_csv(sweep: Sweep) -> str:
    """The rows as CSV; what is missing is empty."""
    lines = rows(sweep)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_field(name) for name in lines[0]])
    writer.writerows([_field(value) for value in line.values()] for line in lines)
    return buffer.getvalue()


def render_json(sweep: Sweep) -> str:
    """The rows, and `meta` about all of them."""
    meta = {
        "method": sweep.title,
        "metric": sweep.metric,
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
    return json.dumps({"meta": meta, "rows": rows(sweep)}, indent=1, allow_nan=False) + "\n"


def _field(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    text = ";".join(map(str, value)) if isinstance(value, list) else str(value)
    formula = text.lstrip().startswith(FORMULAS) or text.startswith(("\t", "\r", "\n"))
    # What a spreadsheet would take for a formula begins with an apostrophe.
    return f"'{printable(text)}" if formula else printable(text)
