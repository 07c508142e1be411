"""Accuracy over shots: a panel per data set, the average first.

After figure 2 of CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024) and figure 3 of CoOp (Zhou
et al., IJCV 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.figures.drawing import (
    Drawing,
    Panels,
    Spot,
    color_of,
    groups_of,
    legend_lines,
    looks_of,
    range_of,
    refuse_nothing,
    row_of,
    spot_of,
    text,
)
from fewshot_bench.analysis.figures.style import Style
from fewshot_bench.analysis.formats.style import Look
from fewshot_bench.analysis.table.table import Group, Row, Table
from fewshot_bench.api.spec import ALL_SHOTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAND = 0.13


def draw(table: Table, style: Style) -> Drawing:
    """The figure; UsageError without any number. Missing cells are gaps, never interpolated."""
    groups = groups_of(table)
    refuse_nothing(table, groups)
    rows = [
        row_of(table, cell, style.spread)
        for group in groups
        for row in table.rows
        for cell in table.line(group, row)
        if cell.expected
    ]
    return Drawing("shots", style, table, rows, lambda: _figure(table, style, groups), len(groups))


def _figure(table: Table, style: Style, groups: Sequence[Group]) -> Figure:
    labels = [row.title for row in table.rows]
    panels = Panels(style, len(groups), legend=legend_lines(style, labels))
    look_by_label = looks_of(table)
    entries: dict[str, Any] = {}
    ranges = []
    constant = {row.label for row in table.rows if _is_constant(table, row)}
    zero = [0] if constant and style.zero_shot == "star" else []
    for axes, group in zip(panels.axes, groups, strict=True):
        numbers: list[Spot] = []
        for row in sorted(table.rows, key=lambda row: row.ours):
            spots = _spots(table, style, group, row)
            if row.label in constant:
                spots = {0: spots[max(spots)]} if spots else {}
            numbers += spots.values()
            if spots:
                entries[row.title] = _draw_row(
                    axes, style, group, row, spots, look_by_label[row.label]
                )
        ranges.append(range_of(numbers, table.main))
        axes.set_title(text(group.name))
        shots = sorted({*group.shots, *zero})
        axes.set_xticks(_positions(shots), list(map(str, shots)))
        axes.grid()
    panels.limit(ranges, style.axes or "free")
    for axes in panels.left:
        axes.set_ylabel(table.main.quantity)
    for axes in panels.low:
        axes.set_xlabel("shots per class")
    ours = [row.title for row in table.rows if row.ours]
    panels.write_legend({label: entries[label] for label in labels if label in entries}, ours)
    return panels.figure


def _is_constant(table: Table, row: Row) -> bool:
    """True for a method that learns nothing from its support set, whose curve would be level."""
    records = [
        record
        for group in table.groups
        for cell in table.line(group, row)
        for record in cell.records.values()
    ]
    kept = [(r.spec.shots, r.footprint.get("trained"), r.footprint.get("stored")) for r in records]
    return bool(kept) and all(shots == 0 or own == [0, 0] for shots, *own in kept)


def _spots(table: Table, style: Style, group: Group, row: Row) -> dict[int, Spot]:
    """Mean, low and high by shots."""
    return {
        cell.shots: spot_of(cell, table.metric, style.spread)
        for cell in table.line(group, row)
        if table.metric in cell.estimates
    }


def _draw_row(
    axes: Axes, style: Style, group: Group, row: Row, spots: Mapping[int, Spot], look: Look
) -> Any:
    """A curve with its spread, or what stands for a method without shots; returns its handle."""
    font = style.size.font
    color = color_of(look)
    marker: dict[str, Any] = {
        "marker": look.marker,
        "markersize": 0.42 * font * look.scale,
        "markeredgewidth": 0,
    }
    line: dict[str, Any] = {"color": color, "linewidth": 1.8 if row.ours else 1.1, "zorder": 3}
    line["label"] = text(row.title)
    shots = [number for number in group.shots if number]
    if list(spots) == [0]:
        if style.zero_shot == "line" and shots:
            return axes.axhline(spots[0][0], linestyle=(0, (1.0, 1.5)), **line)
        star = marker | {"marker": "*", "markersize": 1.2 * font, "linestyle": "", "clip_on": False}
        return axes.plot([0], [spots[0][0]], **line | star)[0]
    xs = _positions(shots)
    gap = (math.nan, math.nan, math.nan)
    means, low, high = zip(*(spots.get(number, gap) for number in shots), strict=True)
    (handle,) = axes.plot(xs, means, linestyle=look.line, **marker, **line)
    if style.spread != "none" and not style.bars:
        axes.fill_between(xs, low, high, color=color, alpha=_BAND, linewidth=0)
    elif style.spread != "none":
        around = [
            [mean - end for mean, end in zip(means, low, strict=True)],
            [end - mean for mean, end in zip(means, high, strict=True)],
        ]
        axes.errorbar(xs, means, yerr=around, fmt="none", ecolor=color, elinewidth=0.7, capsize=1.5)
    return handle


def _positions(shots: Sequence[int]) -> list[int]:
    """Positions on the axis of numbers of shots; all train images are at twice the largest.

    How many images per class that is differs between data sets, and is often far more.
    """
    most = max((number for number in shots if number != ALL_SHOTS), default=0)
    return [2 * most or 1 if number == ALL_SHOTS else number for number in shots]
