"""Accuracy against what it costs, with the methods that no other beats in both (Pareto front)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.report import text
from fewshot_bench.report.figures.style import FAINT, INK, Look
from fewshot_bench.report.figures.svg import Canvas

# Costs within such a factor need no logarithm.
NARROW = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A method: what it costs and what it reaches, in percent."""

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
    """One kind of cost, the cheapest on the left."""
    canvas = Canvas(f"cost-{axis.name}", 3.5, 2.9)
    axes = canvas.figure.add_axes((0.13, 0.15, 0.85, 0.82))
    _panel(canvas, axes, axis)
    axes.set_ylabel(f"{metric}, %")
    return canvas.svg(f"{metric} against {axis.title}", description)


def _panel(canvas: Canvas, axes: Any, axis: Axis) -> None:
    costs = [point.cost for point in axis.points]
    # From a cost of nothing (zero-shot trains nothing) there is no logarithm.
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
            markersize=8 if point.bold else 6.5,
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


# Where a name may stand by its point, the best place first: offset in points, alignments.
_PLACES = (
    ((-5.0, 4.0), "right", "bottom"),
    ((-7.0, 0.0), "right", "center"),
    ((0.0, 6.0), "center", "bottom"),
    ((6.0, -5.0), "left", "top"),
    ((8.0, 0.0), "left", "center"),
    ((0.0, -7.0), "center", "top"),
)
_ALIGNED = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
Box = tuple[float, float, float, float]


def _label(canvas: Canvas, axes: Any, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Names where there is room: the best method's first, then those of the front."""
    order = sorted(points, key=lambda point: (not point.bold, point not in best, -point.value))
    scale = axes.figure.dpi / 72
    # The view is not fitted to the points before something asks for it.
    axes.autoscale_view()
    frame = axes.get_window_extent()
    places = [axes.transData.transform((point.cost, point.value)) for point in order]
    room = 3 * scale
    taken: list[Box] = [(x - room, y - room, x + room, y + room) for x, y in places]
    for point, (x, y) in zip(order, places, strict=True):
        words = text.short(point.label, 16)
        # DejaVu Sans at 8 points is 4.9 points wide on average, and bold 5.6.
        width, height = (5.6 if point.bold else 4.9) * len(words) * scale, 9 * scale
        for offset, across, up in _PLACES:
            left = x + offset[0] * scale - _ALIGNED[across] * width
            bottom = y + offset[1] * scale - _ALIGNED[up] * height
            box = (left, bottom, left + width, bottom + height)
            inside = left >= frame.x0 and box[2] <= frame.x1 and box[3] <= frame.y1
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                label = axes.annotate(
                    words,
                    (point.cost, point.value),
                    xytext=offset,
                    textcoords="offset points",
                    fontsize=8,
                    ha=across,
                    va=up,
                    color=INK,
                    fontweight="bold" if point.bold else "normal",
                )
                canvas.tag(label, "curve", point.look.css)
                break


def _meet(one: Box, two: Box) -> bool:
    """Whether two boxes (left, bottom, right, top) share an area."""
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
