"""The table as tidy rows: CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.conditions import OWN_DATA, data_digest, without_skipped
from fewshot_bench.analysis.statistics.intervals import FEWEST, Estimate
from fewshot_bench.analysis.table.columns import sorted_rows
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.model import Cell, Row, Table
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.api.shots import plain
from fewshot_bench.api.spec import TOY
from fewshot_bench.utils.text import printable

FIRST = (
    "dataset",
    "method",
    "shots",
    "n_seeds",
    "top1_mean",
    "top1_ci95",
    *(column.key for column in COSTS.values()),
)
# What a formula begins with in a spreadsheet, the wide forms of East Asian keyboards among it.
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_INNER = re.compile(rf"(;[\s\"]*)(?=[{re.escape(''.join(FORMULAS))}])")
_CONDITIONS = ("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights")


def render_csv(table: Table) -> str:
    """One line per group (data set, average), method and shots; empty where there is no number."""
    return write_csv(rows(table), FIRST)


def write_csv(lines: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> str:
    """Rows with the same columns; heads: the columns where there is no row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_text(name) for name in (lines[0] if lines else heads)])
    writer.writerows([field(value) for value in line.values()] for line in lines)
    return buffer.getvalue()


def render_json(table: Table) -> str:
    """`rows` as in the CSV, with null for what is missing, and `meta` about all of them."""
    return write_json(meta(table), rows(table))


def write_json(about: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> str:
    """A document of rows, and what is true of all of them."""
    return dumped({"meta": about, "rows": lines})


def dumped(document: Mapping[str, Any]) -> str:
    """JSON on several lines that steers no terminal; not-a-number values are an error."""
    text = json.dumps(plain(document), indent=1, allow_nan=False, default=str, ensure_ascii=False)
    return "\n".join(map(_escaped, text.split("\n"))) + "\n"


def _escaped(line: str) -> str:
    """JSON whose characters that steer a terminal are written as numbers, the value the same."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def rows(table: Table) -> list[dict[str, Any]]:
    """All tidy rows with the same columns, those of `FIRST` first, the plug-ins' last."""
    cells = [
        cell
        for group in table.groups
        for row in sorted_rows(table, group)
        for cell in table.line(group, row)
        if cell.expected
    ]
    titles = list(dict.fromkeys(title for cell in cells for title in cell.extra))
    lines = []
    for cell in cells:
        line = _row(table, cell)
        for title in titles:
            name = f"plugin_{title}" if title in line else str(title)
            line[name] = finite(cell.extra.get(title))
        lines.append(line)
    return lines


def _row(table: Table, cell: Cell) -> dict[str, Any]:
    top1 = cell.estimates.get("top1")
    shown = cell.estimates.get(table.metric)
    spec = cell.row.spec
    return {
        "dataset": cell.group.name,
        "method": cell.row.label,
        "shots": cell.shots,
        "n_seeds": shown.n if shown else 0,
        "top1_mean": _mean(top1),
        "top1_ci95": _half(top1),
        **{column.key: _number(cell.costs.get(name)) for name, column in COSTS.items()},
        "top1_n": top1.n if top1 else 0,
        **_extremes("top1", top1),
        **_other_metrics(table, cell),
        "status": cell.status,
        "seeds": [str(seed) for seed in cell.splits],
        "missing_seeds": [str(seed) for seed in cell.missing_seeds],
        "failed": cell.failed,
        "errors": list(cell.errors),
        "reason": cell.reason,
        "marks": marks_of(cell.row),
        "split_verified": cell.verified,
        "short_classes": cell.short.classes,
        "baseline": table.baseline,
        "delta_metric": table.metric if table.baseline else None,
        "delta_mean": _mean(cell.delta),
        "delta_ci95": _half(cell.delta),
        "delta_n": cell.delta.n if cell.delta else None,
        **_extremes("delta", cell.delta),
        **_tested(table, cell),
        **{name: getattr(spec, name) for name in _CONDITIONS},
        **_special(table, cell),
    }


def marks_of(row: Row) -> list[str]:
    """What notes say under tables that have some."""
    return [*row.marks, *(["toy backbone"] if row.spec.backbone == TOY else [])]


def _tested(table: Table, cell: Cell) -> dict[str, Any]:
    """The paired test behind a difference: over seeds and test images, data sets equally."""
    contrast = table.significance.of(cell) if table.significance else None
    found = contrast.result if contrast else None
    return {
        "test_difference": _number(found.difference) if found else None,
        "test_low": _number(found.low) if found and found.bounded else None,
        "test_high": _number(found.high) if found and found.bounded else None,
        "test_p": found.p if found else None,
        "test_p_holm": contrast.adjusted if contrast else None,
        "test_conditional": found.conditional if found else None,
        "test_seeds": found.seeds if found else None,
    }


def _other_metrics(table: Table, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in table.metrics:
        if name != "top1":
            value = cell.estimates.get(name)
            found |= {name: _mean(value), f"{name}_ci95": _half(value)}
            found[f"{name}_n"] = value.n if value else 0
            found |= _extremes(name, value)
    return found


def _special(table: Table, cell: Cell) -> dict[str, Any]:
    """What tells groups apart without reading their names, where not all are plain data sets."""
    group = cell.group
    found: dict[str, Any] = {}
    if any(other.scope != "all" for other in table.groups):
        found = {"scope": group.scope, "fitted_on": group.dataset, "target": group.target}
    if OWN_DATA in table.conditions:
        own = without_skipped(cell.own_data)
        found["own_data"] = data_digest(own) if own else ""
    return found


def meta(table: Table) -> dict[str, Any]:
    """What is true of all rows of a table."""
    return {
        "metric": table.metric,
        "unit": _unit(table.main),
        "metrics": {
            name: {"title": m.title, "unit": _unit(m), "higher_is_better": m.higher_is_better}
            for name, m in table.metrics.items()
        },
        "interval": (
            f"95 % two-sided Student t over seeds, half-width; none of fewer than {FEWEST} seeds, "
            "of which *_min and *_max are the range"
        ),
        "datasets": table.datasets,
        "methods": [row.label for row in table.rows],
        "shots": table.shots,
        "seeds": [str(seed) for seed in table.seeds],
        "conditions": {name: list(values) for name, values in table.conditions.items()},
        "records": table.records,
        "baseline": table.baseline,
        **_evidence(table),
        "signature": table.signature(table.seeds),
        "signature_line": table.signatures.get("", ""),
        "notes": table.notes,
        "missing_commands": table.commands,
    }


def _unit(metric: Metric) -> str:
    return "percent" if metric.unit == PERCENT else metric.unit


def _mean(value: Estimate | None) -> float | int | None:
    return _number(value.mean) if value else None


def _extremes(name: str, value: Estimate | None) -> dict[str, Any]:
    """The seeds with the least and the most."""
    return {
        f"{name}_min": _number(value.least) if value else None,
        f"{name}_max": _number(value.most) if value else None,
    }


def _half(value: Estimate | None) -> float | int | None:
    return _number(value.half) if value else None


def _number(value: float | None) -> float | int | None:
    """Rounded to six decimals; whole numbers without a decimal point."""
    if value is None:
        return None
    rounded = round(value, 6)
    return int(rounded) if isinstance(value, int) and rounded == int(rounded) else rounded


def finite(value: Any) -> Any:
    """A value whose numbers that JSON does not have are None, those in lists and mappings too."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def field(value: Any) -> Any:
    """A value as a CSV field: lists joined by `;`, text safe for spreadsheets and terminals."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        return _text(";".join(map(str, value)))
    return _text(str(value))


def _text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, and a terminal not for a command.

    Where the decimal sign is a comma, spreadsheets split at semicolons: what follows one counts as
    a field of its own, the second value of a list too.
    """
    formula = text.lstrip().startswith(FORMULAS) or text.startswith(("\t", "\r", "\n"))
    plain = _INNER.sub(r"\1'", printable(text))
    return f"'{plain}" if formula else plain


def _evidence(table: Table) -> dict[str, Any]:
    """What no single cell says: standings, ranks, detectable differences, variances."""
    found = table.significance
    told: dict[str, Any] = {}
    if found is not None:
        told["standings"] = [
            {
                "method": one.overall.row,
                "shots": one.overall.shots,
                "difference": one.overall.result.difference,
                "low": one.overall.result.low,
                "high": one.overall.result.high,
                "p": one.overall.result.p,
                "p_holm": one.overall.adjusted,
                "conditional": one.overall.result.conditional,
                "wins": one.wins,
                "ties": one.ties,
                "losses": one.losses,
                "wilcoxon_p": one.signed_rank,
                "datasets": one.overall.result.datasets,
                "left_out": one.left_out,
            }
            for one in found.standings
        ]
        told["rankings"] = [dataclasses.asdict(one) for one in found.rankings]
        told["detectable"] = [dataclasses.asdict(one) for one in found.detectable]
    if table.variations:
        told["variances"] = [dataclasses.asdict(one) for one in table.variations]
    return told
