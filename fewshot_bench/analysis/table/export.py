"""A table as tidy rows and metadata: the content of CSV and JSON.

`rows` and `meta` are the entries; `FIRST` lists the leading columns in order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fewshot_bench.analysis.conditions import OWN_DATA
from fewshot_bench.analysis.formats.tidy import finite
from fewshot_bench.analysis.frame import data_digest, drop_skipped
from fewshot_bench.analysis.statistics.intervals import FEWEST, Estimate
from fewshot_bench.analysis.table.columns import sort_rows
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.table import (
    Cell,
    Detectable,
    Standing,
    Table,
    Variation,
    marks_of,
    marks_of_seeds,
)
from fewshot_bench.api.metrics import PERCENT, Metric
from fewshot_bench.api.spec import CONDITIONS

FIRST = (
    "dataset",
    "method",
    "shots",
    "n_seeds",
    "top1_mean",
    "top1_ci95",
    *(column.key for column in COSTS.values()),
)


def rows(table: Table) -> list[dict[str, Any]]:
    """All tidy rows with the same columns, those of `FIRST` first, the plug-ins' last."""
    cells = [
        cell
        for group in table.groups
        for row in sort_rows(table, group)
        for cell in table.line(group, row)
        if cell.expected
    ]
    titles = list(dict.fromkeys(title for cell in cells for title in cell.extra))
    more = [
        c for n, c in table.costs.items() if n not in COSTS and any(x.costs.get(n) for x in cells)
    ]
    lines = []
    for cell in cells:
        line = _row(table, cell)
        line |= {cost.key: _number(cell.costs.get(cost.name)) for cost in more}
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
        "marks": [*marks_of(cell.row.spec, cell.row.stated), *marks_of_seeds(cell.splits)],
        "split_verified": cell.verified,
        "short_classes": cell.short.classes,
        "baseline": table.baseline,
        "delta_metric": table.metric if table.baseline else None,
        "delta_mean": _mean(cell.delta),
        "delta_ci95": _half(cell.delta),
        "delta_n": cell.delta.n if cell.delta else None,
        **_extremes("delta", cell.delta),
        **_test(table, cell),
        **{
            name: getattr(spec, name)
            for name, about in CONDITIONS.items()
            if not about.late or name in table.conditions
        },
        **_special(table, cell),
    }


def _test(table: Table, cell: Cell) -> dict[str, Any]:
    """The paired test of a difference, over seeds and test images; data sets weigh equally."""
    contrast = table.contrast(cell)
    if contrast is None:
        names = ("difference", "low", "high", "p", "p_holm", "conditional", "seeds")
        return {f"test_{name}": None for name in names}
    result = contrast.result
    return {
        "test_difference": _number(result.difference),
        "test_low": _number(result.low) if result.bounded else None,
        "test_high": _number(result.high) if result.bounded else None,
        "test_p": result.p if result.tested else None,
        "test_p_holm": contrast.adjusted if result.tested else None,
        "test_conditional": result.conditional,
        "test_seeds": result.seeds,
    }


def _other_metrics(table: Table, cell: Cell) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in table.metrics:
        if name != "top1":
            value = cell.estimates.get(name)
            columns |= {name: _mean(value), f"{name}_ci95": _half(value)}
            columns[f"{name}_n"] = value.n if value else 0
            columns |= _extremes(name, value)
    return columns


def _special(table: Table, cell: Cell) -> dict[str, Any]:
    """Optional fields: scope unless all groups are plain data sets, source if there are others.

    And the digest of own data, if used.
    """
    group = cell.group
    columns: dict[str, Any] = {}
    if any(other.scope != "all" for other in table.groups):
        columns = {"scope": group.scope, "fitted_on": group.dataset, "target": group.target}
    if any(row.source for row in table.rows):
        columns["source"] = cell.row.source or table.store
    if OWN_DATA in table.conditions:
        own = drop_skipped(cell.own_data)
        columns["own_data"] = data_digest(own) if own else ""
    return columns


def meta(table: Table) -> dict[str, Any]:
    """Facts that hold for all rows of a table."""
    return {
        "metric": table.metric,
        "unit": _unit(table.main),
        "metrics": {
            name: {"title": m.title, "unit": _unit(m), "higher_is_better": m.higher_is_better}
            for name, m in table.metrics.items()
        },
        "interval": (
            f"95 % two-sided Student t over seeds, half-width; none of fewer than {FEWEST} seeds, "
            "support sets or shared training seeds, of which *_min and *_max are the range; of "
            "tested differences, the interval of the test"
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


def _evidence(table: Table) -> dict[str, Any]:
    """Results over cells: standings, ranks, detectable differences, variances."""
    tests = table.significance
    evidence: dict[str, Any] = {}
    if tests is not None:
        evidence["standings"] = [_standing(table, standing) for standing in tests.standings]
        evidence["rankings"] = [dataclasses.asdict(ranking) for ranking in tests.rankings]
        evidence["detectable"] = [_fields(table, part) for part in tests.detectable]
    if table.variations:
        evidence["variances"] = [_fields(table, part) for part in table.variations]
    return evidence


def _standing(table: Table, standing: Standing) -> dict[str, Any]:
    result = standing.overall.result
    return {
        "method": standing.overall.row,
        "shots": standing.overall.shots,
        "difference": result.difference,
        "low": result.low if result.bounded else None,
        "high": result.high if result.bounded else None,
        "p": result.p if result.tested else None,
        "p_holm": standing.overall.adjusted if result.tested else None,
        "conditional": result.conditional,
        "wins": standing.wins,
        "ties": standing.ties,
        "losses": standing.losses,
        "wilcoxon_p": standing.signed_rank,
        "datasets": result.datasets,
        "left_out": [table.shown(label) for label in standing.left_out],
    }


def _fields(table: Table, part: Detectable | Variation) -> dict[str, Any]:
    """The fields, with the name of the group as in the rows."""
    return dataclasses.asdict(part) | {"group": table.shown(part.group)}


def _unit(metric: Metric) -> str:
    return "percent" if metric.unit == PERCENT else metric.unit


def _mean(value: Estimate | None) -> float | int | None:
    return _number(value.mean) if value else None


def _half(value: Estimate | None) -> float | int | None:
    return _number(value.half) if value else None


def _extremes(name: str, value: Estimate | None) -> dict[str, Any]:
    """Minimum and maximum over seeds."""
    return {
        f"{name}_min": _number(value.least) if value else None,
        f"{name}_max": _number(value.most) if value else None,
    }


def _number(value: float | None) -> float | int | None:
    """Rounded to six decimals, zero without a sign; whole numbers without a decimal point."""
    if value is None:
        return None
    rounded = round(value, 6) + 0
    return int(rounded) if isinstance(value, int) and rounded == int(rounded) else rounded
