"""An ablation: heat maps of two options of a method, or bars of one, as a sweep has them.

After figure 3 of CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.figures.drawing import (
    Drawing,
    Panels,
    groups_of,
    range_of,
    refuse_nothing,
)
from fewshot_bench.analysis.figures.labels import width_of
from fewshot_bench.analysis.figures.style import SHAPE, Style
from fewshot_bench.analysis.sweep.panels import (
    Combination,
    Panel,
    Sweep,
    SweepOptions,
    position,
    rows,
    scale_of,
    sweep_of,
)
from fewshot_bench.utils.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fewshot_bench.analysis.table.table import Table

# Colors of bars: of the best one, and of the others.
_BEST, _OTHER = "#0072b2", "#9ec4dc"
# Inches of the width of a cell, and of the labels beside a map; the height of a cell by its width.
_CELL, _LABELS, _TALL = 0.36, 0.5, 0.62
# Points of the smallest font of numbers.
_SMALLEST = 4.0


def draw(table: Table, style: Style, options: SweepOptions) -> Drawing:
    """The figure; UsageError without any number. Missing cells are hatched, never interpolated.

    options: the options of the sweep.
    """
    refuse_nothing(table, groups_of(table))
    sweep = sweep_of(table, options)
    lines = [_row(row) for row in rows(sweep)]
    drawn = partial(_figure, sweep, style)
    return Drawing("ablation", style, sweep.table, lines, drawn, len(sweep.panels), sweep.notes)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the sweep with the columns of figures."""
    names = ("ci95", "min", "max", "marks", "missing")
    kept = {name: value for name, value in row.items() if name not in names}
    mean, half = row["mean"], row["ci95"]
    ends = (row["min"], row["max"]) if half is None else (mean - half, mean + half)
    own = dict(zip(("low", "high"), ends, strict=True))
    return kept | {name: None if end is None else round(end, 6) for name, end in own.items()}


def _figure(sweep: Sweep, style: Style) -> Figure:
    across = _across(sweep, style)
    shape = len(sweep.columns[1]) / (_TALL * len(sweep.rows[1])) if sweep.rows else SHAPE
    panels = Panels(replace(style, across=across), len(sweep.panels), shape=shape)
    blocks = [block for block in sweep.blocks for _ in block]
    several = len({panel.shots for panel in sweep.panels}) > 1
    for axes, panel, block in zip(panels.axes, sweep.panels, blocks, strict=True):
        head = f"{panel.group.name}, {panel.shots}-shot" if several else panel.group.name
        others = ", ".join(f"{name} {value}" for name, value in panel.others.items())
        axes.set_title(printable_lines(f"{head}\n{others}" if others else head))
        room = (style.size.width / across - _LABELS) * 72 / len(sweep.columns[1])
        _set_ticks(axes, style, sweep.columns[1], room)
        if sweep.rows is None:
            _draw_bars(axes, sweep, style, panel)
        else:
            _draw_map(axes, sweep, panel, scale_of(block) or (0.0, 1.0), _font(style, room))
    for axes in panels.low:
        axes.set_xlabel(printable_lines(sweep.columns[0]))
    for axes in panels.left:
        name = sweep.table.main.quantity if sweep.rows is None else sweep.rows[0]
        axes.set_ylabel(printable_lines(name))
    if sweep.rows is None:
        ranges = [_range(sweep, style, panel) for panel in sweep.panels]
        panels.limit(ranges, style.axes or "free")
    return panels.figure


def _across(sweep: Sweep, style: Style) -> int:
    """Panels in a row: the values of the last option of panels, else as many as have room."""
    if style.across is not None:
        return style.across
    if len(sweep.axes) > 2:
        return len([*sweep.axes.values()][-1])
    needed = len(sweep.columns[1]) * _CELL + _LABELS
    return min(max(int(style.size.width / needed), 1), len(sweep.panels))


def _set_ticks(axes: Axes, style: Style, values: Sequence[Any], room: float) -> None:
    """Name the columns, aslant if one is wider than its room in points."""
    places, names = _ticks(values)
    axes.set_xticks(places, names)
    if max(width_of(name, style.size.font - 0.5) for name in names) > room:
        axes.tick_params(axis="x", rotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _font(style: Style, room: float) -> float:
    """The font size of a number in a cell with this room, in points."""
    return max(min(style.size.font - 0.5, 0.92 * room / width_of("00.00", 1.0)), _SMALLEST)


def _draw_map(
    axes: Axes, sweep: Sweep, panel: Panel, scale: tuple[float, float], font: float
) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    assert sweep.rows is not None
    values = np.full((len(sweep.rows[1]), len(sweep.columns[1])), np.nan)
    for index, cell in panel.cells.items():
        if cell.estimate is not None:
            values[index] = cell.estimate.mean
    # A single value is the best one, as `position` has it.
    low = scale[0] - (scale[0] == scale[1])
    colors: Any = {"vmin": low, "vmax": scale[1], "cmap": "viridis", "aspect": "auto"}
    axes.imshow(np.ma.masked_invalid(values), **colors)
    axes.set_facecolor("#dddddd")
    hatch: Any = {"fill": False, "hatch": "///", "edgecolor": "#bbbbbb", "linewidth": 0}
    for (i, j), cell in panel.cells.items():
        is_dark = cell.estimate is not None and position(cell.estimate.mean, scale) < 0.5
        if cell.estimate is None:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatch))
        look: Any = {"color": "white" if is_dark else "black", "fontsize": font}
        look["weight"] = "bold" if sweep.is_best(panel, cell) else "normal"
        axes.text(j, i, sweep.text(cell), ha="center", va="center", **look)
    axes.set_yticks(*_ticks(sweep.rows[1]))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Axes, sweep: Sweep, style: Style, panel: Panel) -> None:
    """Bars with their spread, the number above each; a missing one is a word."""
    for j in range(len(sweep.columns[1])):
        cell = panel.cells[0, j]
        is_best = sweep.is_best(panel, cell)
        look: Any = {"fontsize": style.size.font - 1, "weight": "bold" if is_best else "normal"}
        look |= {"ha": "center", "va": "bottom", "textcoords": "offset points", "xytext": (0, 1)}
        if cell.estimate is None:
            at: Any = (j, 0.0)
            axes.annotate(sweep.text(cell), at, xycoords=("data", "axes fraction"), **look)
            continue
        mean, low, high = _spot(sweep, style, cell)
        axes.bar(j, mean, width=0.7, color=_BEST if is_best else _OTHER)
        if high > low:
            around = [[mean - low], [high - mean]]
            axes.errorbar(j, mean, yerr=around, fmt="none", ecolor="#333333", elinewidth=0.7)
        axes.annotate(sweep.text(cell), (j, max(high, mean)), annotation_clip=False, **look)
    axes.set_xlim(-0.6, len(sweep.columns[1]) - 0.4)
    axes.grid(axis="y")
    axes.tick_params(axis="x", length=0)


def _spot(sweep: Sweep, style: Style, cell: Combination) -> tuple[float, float, float]:
    """Mean, low and high of a combination with a number."""
    assert cell.estimate is not None
    mean = cell.estimate.mean
    ends = (mean, mean) if style.spread == "none" else cell.estimate.bounds
    return mean, *ends


def _range(sweep: Sweep, style: Style, panel: Panel) -> tuple[float, float]:
    """Limits that have room for the numbers above the bars."""
    cells = [cell for cell in panel.cells.values() if cell.estimate is not None]
    low, high = range_of([_spot(sweep, style, cell) for cell in cells], sweep.table.main)
    return low, high + 0.15 * (high - low)


def _ticks(values: Sequence[Any]) -> tuple[range, list[str]]:
    """Positions and labels of an axis with these values."""
    return range(len(values)), [printable_lines(str(value)) for value in values]
