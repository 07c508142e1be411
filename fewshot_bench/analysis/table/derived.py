"""Cells that are computed from other cells: averages, and harmonic means of base and new."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from fewshot_bench.analysis.table.cells import estimates
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.model import Cell, Group, Row, Seed
from fewshot_bench.api.metrics import Metric

Series = Mapping[Seed, float]
Metrics = Mapping[str, Metric]


def average(
    group: Group, row: Row, shots: int, cells: Sequence[Cell], metric: str, metrics: Metrics
) -> Cell:
    """The mean over groups, per seed first; missing unless every one has the same seeds."""
    empty = Cell(group, row, shots, "missing")
    if hole := _hole(empty, cells):
        return hole
    if len({frozenset(cell.splits) for cell in cells}) > 1:
        return dataclasses.replace(empty, reason=_unequal_seeds(cells))
    series = {name: _average_series(cells, name) for name in metrics}
    if not series[metric]:
        return dataclasses.replace(empty, reason=f"the metric {metric} is not there for all seeds")
    splits: dict[Seed, Hashable] = {
        seed: tuple(cell.splits[seed] for cell in cells) for seed in cells[0].splits
    }
    return _combined(empty, cells, series, splits)


def harmonic(
    group: Group, row: Row, shots: int, halves: tuple[Cell, Cell], metric: str, metrics: Metrics
) -> Cell:
    """The harmonic mean 2bn / (b + n) of base and new accuracy, per seed that has both.

    Of metrics that are better when lower there is none.

    Of the averages it is the harmonic mean of the average base and the average new accuracy, as in
    CoCoOp (Zhou et al., CVPR 2022, table 1), not the average of harmonic means.
    """
    empty = Cell(group, row, shots, "missing")
    if hole := _hole(empty, halves):
        return hole
    base, new = halves
    series = {
        name: _harmonic_series(base, new, name) if known.higher_is_better else {}
        for name, known in metrics.items()
    }
    if not series[metric]:
        return dataclasses.replace(empty, reason=_unequal_seeds(halves))
    splits: dict[Seed, Hashable] = {
        seed: (base.splits[seed], new.splits[seed]) for seed in series[metric]
    }
    return _combined(empty, halves, series, splits)


def without_counterpart(group: Group, row: Row, shots: int, odd: Sequence[Group]) -> Cell:
    """No harmonic mean of averages over different data sets."""
    names = ", ".join(other.name for other in odd)
    reason = f"base and new are not of the same data sets: only one half of {names}"
    return Cell(group, row, shots, "missing", reason=reason)


def _hole(empty: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell without numbers when a part has none: never a mean over the rest."""
    inapplicable = [cell.reason for cell in cells if cell.status == "inapplicable"]
    if inapplicable:
        reason = "; ".join(dict.fromkeys(inapplicable))
        return dataclasses.replace(empty, status="inapplicable", reason=reason)
    holes = [cell for cell in cells if cell.status in ("missing", "failed")]
    if not holes:
        return None
    if all(cell.group.average for cell in holes):
        reason = "; ".join(dict.fromkeys(cell.reason for cell in holes))
    else:
        reason = f"no result on {', '.join(cell.group.name for cell in holes)}"
    return dataclasses.replace(empty, reason=reason)


def _combined(
    empty: Cell,
    cells: Sequence[Cell],
    series: Mapping[str, Series],
    splits: Mapping[Seed, Hashable],
) -> Cell:
    whole = all(cell.status == "done" and len(cell.splits) == len(splits) for cell in cells)
    return dataclasses.replace(
        empty,
        status="done" if whole else "partial",
        estimates=estimates(series),
        series=series,
        splits=splits,
        missing_seeds=tuple(sorted({seed for cell in cells for seed in cell.missing_seeds})),
        failed=sum(cell.failed for cell in cells),
        costs={
            name: column.together([cell.costs.get(name) for cell in cells])
            for name, column in COSTS.items()
        },
    )


def _unequal_seeds(cells: Sequence[Cell]) -> str:
    by_seeds: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        by_seeds[",".join(map(str, cell.splits))].append(cell.group.name)
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


def _harmonic_series(base: Cell, new: Cell, metric: str) -> dict[Seed, float]:
    ours, theirs = base.series.get(metric, {}), new.series.get(metric, {})
    return {seed: harmonic_mean(ours[seed], theirs[seed]) for seed in ours if seed in theirs}


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n) of two accuracies; 0 when both are."""
    return 2 * base * new / (base + new) if base + new else 0.0
