"""The sweep as a figure: heat maps, or a curve for a single option. `figure` is the entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.style import SETTINGS
from fewshot_bench.analysis.signature import break_line
from fewshot_bench.analysis.sweep.panels import Panel, Sweep, estimates_of, position, scale_of
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.utils.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
_CELL, _LABELS, _HEAD = 0.62, 0.9, 0.75
# Width of a character of small print (a generous estimate) and height of a line, in inches.
_CHARACTER, _LINE = 0.055, 0.1


def figure(sweep: Sweep) -> Figure:
    """The figure, with notes and signature below. Missing cells are hatched, never interpolated."""
    import matplotlib
    from matplotlib.figure import Figure

    across = len([*sweep.axes.values()][-1]) if len(sweep.axes) > 2 else 1
    downs = [math.ceil(len(block) / across) for block in sweep.blocks]
    width, height = _size(sweep)
    foot = _foot(sweep, across * width + 1)
    size = across * width + 1, sum(downs) * height + 1 + (foot.count("\n") + 1) * _LINE
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=size, layout="constrained")
        grid: Any = drawn.subplots(sum(downs), across, squeeze=False)
        lines = iter(grid)
        for block, down in zip(sweep.blocks, downs, strict=True):
            _draw_block(drawn, sweep, block, [axes for _ in range(down) for axes in next(lines)])
        drawn.suptitle(printable_lines(f"{sweep.title}: {sweep.table.main.quantity}"))
        drawn.supxlabel(foot, fontsize=6)
    return drawn


def _foot(sweep: Sweep, inches: float) -> str:
    """Notes, conditions, and the signature, broken to the width of the figure."""
    width, table = int(inches / _CHARACTER), sweep.table
    texts = [*sweep.notes, table.signature(table.seeds)]
    lines = [line for text in texts for line in wrap(text, width)]
    return printable_lines("\n".join([*lines, *break_line(table.signatures.get("", ""), width)]))


def _size(sweep: Sweep) -> tuple[float, float]:
    columns = len(sweep.columns[1])
    if sweep.rows is None:
        return max(3.0, columns * _CELL + _LABELS), 2.6
    return columns * _CELL + _LABELS, len(sweep.rows[1]) * _CELL * 0.6 + _HEAD


def _draw_block(drawn: Figure, sweep: Sweep, panels: Sequence[Panel], plots: list[Axes]) -> None:
    """The panels of one group and number of shots, which share their scale."""
    scale = scale_of(panels)
    for plot, panel in zip(plots, panels, strict=False):
        head = f"{panel.group.name}, {panel.shots}-shot"
        others = ", ".join(f"{name} {value}" for name, value in panel.others.items())
        plot.set_title(printable_lines(f"{head}\n{others}" if others else head))
        plot.set_xticks(*_ticks(sweep.columns[1]))
        plot.set_xlabel(printable_lines(sweep.columns[0]))
        if sweep.rows is None:
            _draw_curve(plot, sweep, panel, _limits(sweep, panels))
        else:
            _draw_map(plot, sweep, panel, scale or (0.0, 1.0))
    for plot in plots[len(panels) :]:
        plot.set_axis_off()
    if sweep.rows is not None and scale is not None:
        bar = drawn.colorbar(plots[0].images[0], ax=plots, shrink=0.7, pad=0.01)
        bar.set_label(printable_lines(sweep.table.main.quantity))


def _draw_map(plot: Axes, sweep: Sweep, panel: Panel, scale: tuple[float, float]) -> None:
    import numpy as np
    from matplotlib.patches import Rectangle

    assert sweep.rows is not None
    values = np.full((len(sweep.rows[1]), len(sweep.columns[1])), np.nan)
    for index, cell in panel.cells.items():
        if cell.estimate is not None:
            values[index] = cell.estimate.mean
    colors: Any = {"vmin": scale[0], "vmax": scale[1], "cmap": "viridis", "aspect": "auto"}
    plot.imshow(np.ma.masked_invalid(values), **colors)
    plot.set_facecolor("#dddddd")
    hatch: Any = {"fill": False, "hatch": "///", "edgecolor": "#bbbbbb", "linewidth": 0}
    for (i, j), cell in panel.cells.items():
        is_dark = cell.estimate is not None and position(cell.estimate.mean, scale) < 0.5
        if cell.estimate is None:
            plot.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **hatch))
        style: Any = {"color": "white" if is_dark else "black", "fontsize": 7}
        style["weight"] = "bold" if sweep.is_best(panel, cell) else "normal"
        plot.text(j, i, sweep.text(cell), ha="center", va="center", **style)
    plot.set_yticks(*_ticks(sweep.rows[1]))
    plot.set_ylabel(printable_lines(sweep.rows[0]))


def _draw_curve(plot: Axes, sweep: Sweep, panel: Panel, limits: tuple[float, float]) -> None:
    """Points with intervals (without one, the range), joined between neighbors with numbers."""
    cells = [panel.cells[0, j] for j in range(len(sweep.columns[1]))]
    means = [math.nan if cell.estimate is None else cell.estimate.mean for cell in cells]
    plot.plot(range(len(cells)), means, color="#3b528b", marker="o")
    for j, cell in enumerate(cells):
        if cell.estimate is not None and cell.estimate.n > 1:
            low, high = cell.estimate.bounds
            around = [[means[j] - low], [high - means[j]]]
            plot.errorbar(j, means[j], yerr=around, color="#3b528b", capsize=3, linewidth=0.8)
        at = j, limits[0] if cell.estimate is None else means[j]
        style: Any = {"weight": "bold" if sweep.is_best(panel, cell) else "normal", "fontsize": 7}
        plot.annotate(sweep.text(cell), at, (4, 4), textcoords="offset points", **style)
    plot.set_ylim(*limits)
    plot.set_xlim(-0.4, len(cells) - 0.3)
    plot.set_ylabel(printable_lines(sweep.table.main.quantity))
    plot.grid(axis="y", linewidth=0.3)
    plot.spines[["top", "right"]].set_visible(False)


def _limits(sweep: Sweep, panels: Sequence[Panel]) -> tuple[float, float]:
    """Axis limits that some panels share: all intervals, with some room; percentages from 0.

    An interval much wider than the range of all means is cut.
    """
    estimates, scale = estimates_of(panels), scale_of(panels)
    if scale is None:
        return 0.0, 100.0
    room = max(scale[1] - scale[0], 10.0 ** (2 - sweep.table.main.digits))
    low = min(max(value.bounds[0], value.mean - room) for value in estimates) - 0.15 * room
    high = max(min(value.bounds[1], value.mean + room) for value in estimates) + 0.15 * room
    return max(low, 0.0) if sweep.table.main.unit == PERCENT else low, high


def _ticks(values: Sequence[Any]) -> tuple[range, list[str]]:
    """Positions and labels of an axis with these values."""
    return range(len(values)), [printable_lines(str(value)) for value in values]
