"""The sweep as a figure: heat maps, or a curve for a single option."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.style import SETTINGS
from fewshot_bench.analysis.signature import broken
from fewshot_bench.analysis.sweep.build import Panel, Sweep, estimates_of, scale_of
from fewshot_bench.analysis.sweep.render import shown
from fewshot_bench.utils.text import printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fewshot_bench.analysis.statistics.intervals import Estimate

FORMATS = ("svg", "png", "pdf")
# Sizes in inches.
_CELL, _LABELS, _HEAD = 0.62, 0.9, 0.75
# Width of a character of small print (a generous estimate) and height of a line, in inches.
_CHARACTER, _LINE = 0.055, 0.1


def draw(sweep: Sweep, form: str) -> bytes:
    """The file in one of `FORMATS`. Missing cells are hatched, never interpolated."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        per_line = _per_line(sweep)
        lines = [math.ceil(len(block) / per_line) for block in sweep.blocks]
        width, height = _size(sweep)
        foot = _foot(sweep, per_line * width + 1)
        below = (foot.count("\n") + 1) * _LINE
        figure = Figure(
            figsize=(per_line * width + 1, sum(lines) * height + 1 + below), layout="constrained"
        )
        grid: Any = figure.subplots(sum(lines), per_line, squeeze=False)
        start = 0
        for block, count in zip(sweep.blocks, lines, strict=True):
            places = [axes for line in grid[start : start + count] for axes in line]
            _draw_block(figure, sweep, block, places)
            start += count
        figure.suptitle(printable_lines(f"{sweep.title}: {sweep.metric.title} in %"))
        figure.supxlabel(foot, fontsize=6)
        buffer = io.BytesIO()
        about = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(buffer, format=form, dpi=200, metadata=about)
    return buffer.getvalue()


def _foot(sweep: Sweep, inches: float) -> str:
    """Notes, conditions, and the signature broken to the width of the figure."""
    width = int(inches / _CHARACTER)
    texts = [line for text in (*sweep.notes, sweep.conditions_text) for line in wrap(text, width)]
    return printable_lines("\n".join([*texts, *broken(sweep.signature, width)]))


def _per_line(sweep: Sweep) -> int:
    """Number of panels per line: one per value of the last panel option, or a single one."""
    return len(sweep.others[-1].values) if sweep.others else 1


def _size(sweep: Sweep) -> tuple[float, float]:
    columns = len(sweep.columns.values)
    if sweep.rows is None:
        return max(3.0, columns * _CELL + _LABELS), 2.6
    return columns * _CELL + _LABELS, len(sweep.rows.values) * _CELL * 0.6 + _HEAD


def _draw_block(figure: Any, sweep: Sweep, panels: Sequence[Panel], places: Sequence[Axes]) -> None:
    """The panels of one group and number of shots, which share their scale."""
    image = None
    for place, panel in zip(places, panels, strict=False):
        head = f"{panel.group}, {panel.shots}-shot"
        place.set_title(printable_lines(f"{head}\n{panel.title}" if panel.title else head))
        if sweep.rows is None:
            _draw_curve(place, sweep, panel, _limits(panels))
        else:
            image = _draw_map(place, sweep, panel, scale_of(panels)) or image
    for place in places[len(panels) :]:
        place.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=list(places), shrink=0.7, pad=0.01)
        bar.set_label(printable_lines(f"{sweep.metric.title} in %"))


def _draw_map(
    place: Axes, sweep: Sweep, panel: Panel, scale: tuple[float, float] | None
) -> Any | None:
    import numpy as np

    assert sweep.rows is not None
    shape = (len(sweep.rows.values), len(sweep.columns.values))
    values = np.full(shape, np.nan)
    for (i, j), cell in panel.cells.items():
        if cell.estimate is not None:
            values[i, j] = cell.estimate.mean
    low, high = scale or (0.0, 1.0)
    image = place.imshow(
        np.ma.masked_invalid(values), vmin=low, vmax=high, cmap="viridis", aspect="auto"
    )
    place.set_facecolor("#dddddd")
    for (i, j), cell in panel.cells.items():
        if cell.estimate is None:
            _hatch(place, j - 0.5, i - 0.5)
        share = (values[i, j] - low) / (high - low) if high > low else 1.0
        ink = "white" if cell.estimate is not None and share < 0.5 else "black"
        weight = "bold" if panel.is_best(cell) else "normal"
        place.text(
            j, i, shown(cell), ha="center", va="center", color=ink, weight=weight, fontsize=7
        )
    _ticks(place, sweep.columns.name, sweep.columns.values)
    place.set_yticks(range(shape[0]), [printable_lines(str(value)) for value in sweep.rows.values])
    place.set_ylabel(printable_lines(sweep.rows.name))
    return image if scale else None


def _hatch(place: Axes, left: float, bottom: float) -> None:
    from matplotlib.patches import Rectangle

    place.add_patch(
        Rectangle((left, bottom), 1, 1, fill=False, hatch="///", edgecolor="#bbbbbb", linewidth=0)
    )


def _draw_curve(place: Axes, sweep: Sweep, panel: Panel, limits: tuple[float, float]) -> None:
    """Points with intervals (without one, the range), joined between neighbors with numbers."""
    values: dict[int, Estimate] = {}
    for j in range(len(sweep.columns.values)):
        value = panel.cells[0, j].estimate
        if value is not None:
            values[j] = value
    low, high = limits
    for j, value in values.items():
        if j + 1 in values:
            place.plot([j, j + 1], [value.mean, values[j + 1].mean], color="#3b528b")
        lowest, highest = value.bounds
        around = [[value.mean - lowest], [highest - value.mean]] if value.n > 1 else None
        place.errorbar(
            j, value.mean, yerr=around, color="#3b528b", marker="o", capsize=3, linewidth=0.8
        )
    for (_, j), cell in panel.cells.items():
        at = low if cell.estimate is None else cell.estimate.mean
        place.annotate(
            shown(cell),
            (j, at),
            (4, 4),
            textcoords="offset points",
            fontsize=7,
            weight="bold" if panel.is_best(cell) else "normal",
        )
    place.set_ylim(low, high)
    place.set_xlim(-0.4, len(sweep.columns.values) - 0.3)
    place.set_ylabel(printable_lines(f"{sweep.metric.title} in %"))
    _ticks(place, sweep.columns.name, sweep.columns.values)
    place.grid(axis="y", linewidth=0.3)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Axis limits that some panels share: all intervals, with some room; never below 0.

    An interval much wider than the range of all means is cut.
    """
    found, scale = estimates_of(panels), scale_of(panels)
    if scale is None:
        return 0.0, 100.0
    room = max(scale[1] - scale[0], 1.0)
    low = min(max(value.bounds[0], value.mean - room) for value in found) - 0.15 * room
    high = max(min(value.bounds[1], value.mean + room) for value in found) + 0.15 * room
    return max(low, 0.0), high


def _ticks(place: Axes, name: str, values: Sequence[Any]) -> None:
    place.set_xticks(range(len(values)), [printable_lines(str(value)) for value in values])
    place.set_xlabel(printable_lines(name))
