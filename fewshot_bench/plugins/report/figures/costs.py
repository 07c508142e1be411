"""Accuracy against cost, with the methods that no other beats in both (Pareto front)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot_bench.analysis.formats.style import FAINT, INK, Look
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import Canvas, width_of

# Costs within this factor are drawn on a linear axis.
NARROW = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A method: its cost, and the value of its metric in percent."""

    label: str
    look: Look
    cost: float
    value: float
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """One kind of cost: its name in a cell, its title with the unit, and its points."""

    name: str
    title: str
    points: Sequence[Point]


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats: none is cheaper and as good, or as cheap and better.

    Sorted by cost.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    return kept


def draw(axis: Axis, metric: str, description: str) -> str:
    """Draw one kind of cost, the cheapest on the left."""
    canvas = Canvas(f"cost-{axis.name}", 3.5, 2.9)
    axes = canvas.figure.add_axes((0.17, 0.15, 0.81, 0.82))
    _panel(canvas, axes, axis)
    axes.set_ylabel(f"{metric}, %")
    return canvas.svg(f"{metric} against {axis.title}", description)


def _panel(canvas: Canvas, axes: Any, axis: Axis) -> None:
    costs = [point.cost for point in axis.points]
    # A cost of 0 (zero-shot trains nothing) has no logarithm.
    least = min((cost for cost in costs if cost > 0), default=1.0)
    linear = max(costs) < NARROW * min(costs)
    if not linear and min(costs) <= 0:
        axes.set_xscale("symlog", linthresh=least, linscale=0.6)
    elif not linear:
        axes.set_xscale("log")
    best = front(axis.points)
    xs = [point.cost for point in best]
    ys = [point.value for point in best]
    (line,) = axes.step(xs, ys, where="post", color=INK, linewidth=0.9, alpha=0.55)
    canvas.tag(line, "front")
    for point in axis.points:
        (mark,) = axes.plot(
            *([point.cost], [point.value]),
            color=point.look.sentinel,
            marker=point.look.marker,
            markersize=(8 if point.bold else 6.5) * point.look.scale,
            markeredgewidth=0,
        )
        canvas.tag(mark, "curve", point.look.css)
    axes.margins(x=0.12, y=0.14)
    axes.set_xlabel(axis.title)
    axes.minorticks_off()
    if linear:
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    else:
        ticks = _ticks(costs)
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _label(canvas, axes, axis.points, best)


def _ticks(costs: Sequence[float]) -> list[float]:
    """Powers of ten over the costs, with 2 and 5 where these are few; 0 if it is a cost."""
    positive = [cost for cost in costs if cost > 0]
    if not positive:
        return [0.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    steps = (1, 2, 5) if high - low < 1.6 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [step * 10.0**power for power in powers for step in steps]
    near = [tick for tick in found if low - 0.1 <= math.log10(tick) <= high + 0.1]
    return [0.0] * (min(costs) <= 0) + near


def _short(value: float) -> str:
    """1, 500, 20 k, 3 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


# Places of a name by its point, the best first: offset in points, alignments.
_PLACES = (
    ((-5.0, 4.0), "right", "bottom"),
    ((-7.0, 0.0), "right", "center"),
    ((0.0, 6.0), "center", "bottom"),
    ((6.0, -5.0), "left", "top"),
    ((8.0, 0.0), "left", "center"),
    ((0.0, -7.0), "center", "top"),
)
_ALIGNED = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
# Names: font size, characters, points from the bottom of one to that of the next.
_SIZE, _LONGEST, _HEIGHT = 8.0, 20, 10.0
Box = tuple[float, float, float, float]


def _label(canvas: Canvas, axes: Any, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Name every point: beside it if there is room, else near it with a line to it."""
    order = sorted(points, key=lambda point: (not point.bold, point not in best, -point.value))
    scale = axes.figure.dpi / 72
    # Matplotlib fits the view to the points only on request.
    axes.autoscale_view()
    extent = axes.get_window_extent()
    # In points from here on.
    frame = tuple(end / scale for end in (extent.x0, extent.y0, extent.x1, extent.y1))
    marks = [axes.transData.transform((point.cost, point.value)) / scale for point in order]
    names = text.short_names([point.label for point in order], _LONGEST)
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in marks]
    for point, (x, y) in zip(order, marks, strict=True):
        words = names[point.label]
        box, near = _place((x, y), width_of(words, _SIZE, bold=point.bold), frame, taken)
        taken.append(box)
        label = axes.annotate(
            words,
            (point.cost, point.value),
            xytext=(box[0] - x, box[1] - y),
            textcoords="offset points",
            fontsize=_SIZE,
            ha="left",
            va="bottom",
            color=INK,
            fontweight="bold" if point.bold else "normal",
        )
        canvas.tag(label, "curve", "name", point.look.css)
        if not near:
            _lead(canvas, axes, point, (x, y), box)


def _lead(canvas: Canvas, axes: Any, point: Point, mark: tuple[float, float], box: Box) -> None:
    """A thin line from a mark to the nearest edge of its name."""
    x, y = mark
    end = min(max(x, box[0]), box[2]) - x, min(max(y, box[1]), box[3]) - y
    line = axes.annotate(
        "",
        (point.cost, point.value),
        xytext=end,
        textcoords="offset points",
        arrowprops={
            "arrowstyle": "-",
            "color": point.look.sentinel,
            "linewidth": 0.6,
            "shrinkA": 0.0,
            "shrinkB": 0.0,
        },
    )
    canvas.tag(line.arrow_patch, "curve", point.look.css)


def _place(
    mark: tuple[float, float], width: float, frame: tuple[float, ...], taken: Sequence[Box]
) -> tuple[Box, bool]:
    """A free place for a name inside the frame, and True if it is by its mark.

    Otherwise the nearest free place of a grid, or the one with the least overlap if none is free.
    """
    x, y = mark
    for offset, across, up in _PLACES:
        left = x + offset[0] - _ALIGNED[across] * width
        bottom = y + offset[1] - _ALIGNED[up] * _HEIGHT
        box = (left, bottom, left + width, bottom + _HEIGHT)
        inside = frame[0] <= left and box[2] <= frame[2] and frame[1] <= bottom
        if inside and box[3] <= frame[3] and not any(_shared(box, other) for other in taken):
            return box, True
    lefts = _steps(frame[0], frame[2] - width, 4.0)
    bottoms = _steps(frame[1], frame[3] - _HEIGHT, 2.5)
    # Every place of the grid at once: left, bottom, right, top.
    low = np.stack(np.meshgrid(lefts, bottoms, indexing="ij")).reshape(2, -1)
    high = low + np.array([[width], [_HEIGHT]])
    covered = np.zeros(low.shape[1])
    for other in taken:
        sides = np.minimum(high, [[other[2]], [other[3]]]) - np.maximum(
            low, [[other[0]], [other[1]]]
        )
        covered += np.maximum(sides, 0.0).prod(axis=0)
    point = np.array([[x], [y]])
    aside = np.hypot(*np.maximum(np.maximum(low - point, point - high), 0.0))
    best = int(np.lexsort((aside, covered))[0])
    left, bottom, right, top = map(float, (*low[:, best], *high[:, best]))
    return (left, bottom, right, top), False


def _steps(first: float, last: float, step: float) -> list[float]:
    """Values from first to last; only the first if there is no room."""
    count = max(int((last - first) / step), 0)
    return [first + index * step for index in range(count + 1)]


def _shared(one: Box, two: Box) -> float:
    """The area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(width, 0.0) * max(height, 0.0)
