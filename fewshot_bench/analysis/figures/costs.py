"""Accuracy against costs: a panel per cost, a mark per method, its name beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.figures.base_new import cell_at, shots_of
from fewshot_bench.analysis.figures.drawing import (
    Drawing,
    Panels,
    color_of,
    groups_of,
    looks_of,
    refuse_nothing,
    row_of,
    text,
)
from fewshot_bench.analysis.figures.labels import place_names, width_of
from fewshot_bench.analysis.figures.style import Style
from fewshot_bench.analysis.table.costs import COSTS, Cost, every_cost
from fewshot_bench.analysis.table.table import Cell, Table
from fewshot_bench.utils.errors import unknown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fewshot_bench.analysis.formats.style import Look

# Costs within this factor are drawn on a linear axis.
NARROW = 3
# Points from a mark to a name that needs no line to it.
NEAR = 7.0


class Mark(NamedTuple):
    """A method in a panel."""

    label: str
    look: Look
    cost: float
    value: float
    ours: bool


def draw(table: Table, style: Style, names: Sequence[str] = ()) -> Drawing:
    """The figure, of the average if there are several data sets; UsageError without any number.

    names: of `every_cost`; `COSTS` by default. UsageError for several numbers of shots.
    """
    groups = groups_of(table)[:1]
    refuse_nothing(table, groups)
    shots = shots_of(table, groups)
    cells = [cell_at(table, groups[0], row, shots) for row in table.rows]
    known = every_cost()
    for name in names:
        if name not in known:
            raise unknown("cost", name, known, "fsbench figure --help")
    costs = [known[name] for name in names or COSTS]
    costs = [cost for cost in costs if any(_cost(cell, cost) is not None for cell in cells)]
    refuse_nothing(table, costs)
    rows = [
        row_of(table, cell, style.spread, **{cost.key: _cost(cell, cost) for cost in costs})
        for cell in cells
    ]

    def figure() -> Figure:
        return _figure(table, style, cells, costs)

    return Drawing("cost", style, table, rows, figure, len(costs))


def _cost(cell: Cell, cost: Cost) -> float | None:
    return cell.costs.get(cost.name)


def _figure(table: Table, style: Style, cells: Sequence[Cell], costs: Sequence[Cost]) -> Figure:
    panels = Panels(style, len(costs), shape=1.15)
    found = looks_of(table)
    drawn: list[list[Mark]] = []
    for axes, cost in zip(panels.axes, costs, strict=True):
        marks = [
            Mark(
                text(cell.row.title),
                found[cell.row.label],
                float(value),
                cell.estimates[table.metric].mean,
                cell.row.ours,
            )
            for cell in cells
            if table.metric in cell.estimates and (value := _cost(cell, cost)) is not None
        ]
        drawn.append(marks)
        axes.set_xlabel(cost.axis)
        axes.grid()
        for mark in marks:
            size = (0.95 if mark.ours else 0.75) * style.size.font * mark.look.scale
            look: Any = {"marker": mark.look.marker, "markersize": size, "markeredgewidth": 0}
            axes.plot([mark.cost], [mark.value], color=color_of(mark.look), linestyle="", **look)
        axes.margins(x=0.12, y=0.14)
        set_axis(axes, [mark.cost for mark in marks])
    for axes in panels.left:
        axes.set_ylabel(table.main.quantity)
    # The layout decides where marks are on paper.
    panels.figure.draw_without_rendering()
    for axes, marks in zip(panels.axes, drawn, strict=True):
        _write_names(axes, style, marks)
    return panels.figure


def _write_names(axes: Axes, style: Style, marks: Sequence[Mark]) -> None:
    """Name every mark where there is room, ours first, with a line to it if that is not near."""
    font, scale = style.size.font, 72 / axes.figure.dpi
    order = sorted(marks, key=lambda mark: (not mark.ours, -mark.value))
    spots = [axes.transData.transform((mark.cost, mark.value)) * scale for mark in order]
    sizes = [np.array((width_of(mark.label, font, bold=mark.ours), 1.25 * font)) for mark in order]
    frame = np.array(axes.get_window_extent().extents) * scale + (4, 3, -4, -3)
    places = place_names(spots, sizes, frame)
    for mark, spot, size, (low, gap) in zip(order, spots, sizes, places, strict=True):
        common: Any = {"xy": (mark.cost, mark.value), "textcoords": "offset points"}
        weight = "bold" if mark.ours else "normal"
        axes.annotate(
            mark.label,
            xytext=tuple(low - spot),
            ha="left",
            va="bottom",
            fontweight=weight,
            **common,
        )
        if gap > NEAR:
            end = np.clip(spot, low, low + size) - spot
            line = {"arrowstyle": "-", "color": color_of(mark.look), "linewidth": 0.6}
            line |= {"shrinkA": 0.0, "shrinkB": 0.0}
            axes.annotate("", xytext=tuple(end), arrowprops=line, **common)


def set_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Scale and ticks of a horizontal axis of costs: linear where they are close, else by powers.

    A cost of 0 (zero-shot trains nothing) has no logarithm: between it and the least it is linear.
    """
    axes.minorticks_off()
    least = min((cost for cost in costs if cost > 0), default=1.0)
    if max(costs) < NARROW * min(costs):
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: shorten(value))
        return
    if min(costs) <= 0:
        axes.set_xscale("symlog", linthresh=least, linscale=0.6)
    else:
        axes.set_xscale("log")
    axes.minorticks_off()
    ticks = _ticks(costs)
    axes.set_xticks(ticks, [shorten(tick) for tick in ticks])


def _ticks(costs: Sequence[float]) -> list[float]:
    """Powers of ten over the costs, with 2 and 5 where these are few; 0 if it is a cost."""
    positive = [cost for cost in costs if cost > 0]
    if not positive:
        return [0.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    steps = (1, 2, 5) if high - low < 1.6 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    near = [tick for tick in ticks if low - 0.1 <= math.log10(tick) <= high + 0.1]
    return [0.0] * (min(costs) <= 0) + near


def shorten(value: float) -> str:
    """1, 500, 20 k, 3 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
