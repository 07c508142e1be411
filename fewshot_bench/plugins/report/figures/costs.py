"""Accuracy against cost, with the methods that no other beats in both (Pareto front)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot_bench.analysis.formats.style import FAINT, INK
from fewshot_bench.analysis.table.columns import BILLED, COSTS, Cost, number
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import Canvas, Picture, width_of
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.utils.text import joined

# A cost is drawn if the methods are further apart than this share of the largest.
APART = 0.1
# Costs within this factor are drawn on a linear axis.
NARROW = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A method: its cost, and the value of its metric in percent."""

    contestant: Contestant
    cost: float
    value: float
    bold: bool = False


def draw_all(headline: Headline) -> tuple[list[Picture], list[str]]:
    """Accuracy against each kind of cost in which the methods differ, time first.

    A sentence in place of a cost whose differences between methods say nothing.
    """
    pictures, sentences = [], []
    for column in (BILLED, *(other for other in COSTS.values() if other is not BILLED)):
        points = [
            Point(contestant, cost, headline.estimate(contestant).mean, contestant is best)
            for best in headline.ranked[:1]
            for contestant in headline.drawn
            if contestant.cell and (cost := contestant.cell.costs.get(column.name)) is not None
        ]
        same = _explain_alike(headline, column, points) if points else ""
        if same:
            sentences.append(same)
        elif points:
            pictures.append(_draw(headline.table.main.title, column, points))
    return pictures, sentences


def _explain_alike(headline: Headline, column: Cost, points: Sequence[Point]) -> str:
    """Sentence on a cost that hardly differs between methods; empty if it differs.

    It differs if the smallest and the largest are further apart than a tenth of the largest, and
    than runs of one method are in the median over methods and data sets.
    """
    low, high = min(point.cost for point in points), max(point.cost for point in points)
    noise = statistics.median(_ranges(headline, column) or [0.0])
    shown = column.words(low), column.words(high)
    if high - low > max(APART * high, noise):
        return ""
    if shown[0] == shown[1]:
        return f"Not drawn: {column.subject}, {shown[0]} for every method."
    near = "within a tenth of the largest"
    if high - low > APART * high:
        near = "no further apart than runs of one method are"
    return f"Not drawn: {column.subject}, {shown[0]} to {shown[1]}, {near}."


def _ranges(headline: Headline, column: Cost) -> list[float]:
    """The range of a cost over the seeds of every method on every data set."""
    ranges = []
    for contestant in headline.drawn:
        for group in headline.members:
            runs = headline.records_of(contestant, group).values()
            values = [number(run.entry(*column.source.split(".", 1))) for run in runs]
            costs = [value for value in values if value is not None]
            if len(costs) > 1:
                ranges.append(max(costs) - min(costs))
    return ranges


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats: none is cheaper and as good, or as cheap and better.

    Sorted by cost.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    return kept


def _draw(metric: str, column: Cost, points: Sequence[Point]) -> Picture:
    """One kind of cost, the cheapest on the left."""
    canvas = Canvas(f"cost-{column.name}", 3.5, 2.9)
    axes = canvas.figure.add_axes((0.17, 0.15, 0.81, 0.82))
    costs = [point.cost for point in points]
    # A cost of 0 (zero-shot trains nothing) has no logarithm.
    least = min((cost for cost in costs if cost > 0), default=1.0)
    linear = max(costs) < NARROW * min(costs)
    if not linear and min(costs) <= 0:
        axes.set_xscale("symlog", linthresh=least, linscale=0.6)
    elif not linear:
        axes.set_xscale("log")
    best = front(points)
    ends = [point.cost for point in best], [point.value for point in best]
    (line,) = axes.step(*ends, where="post", color=INK, linewidth=0.9, alpha=0.55)
    canvas.tag(line, "front")
    for point in points:
        look = point.contestant.look
        (mark,) = axes.plot(
            *([point.cost], [point.value]),
            color=look.sentinel,
            marker=look.marker,
            markersize=(8 if point.bold else 6.5) * look.scale,
            markeredgewidth=0,
        )
        canvas.tag(mark, "curve", look.css)
    axes.margins(x=0.12, y=0.14)
    axes.set_xlabel(column.axis)
    axes.minorticks_off()
    if linear:
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: _shorten(value))
    else:
        ticks = _ticks(costs)
        axes.set_xticks(ticks, [_shorten(tick) for tick in ticks])
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _label_points(canvas, axes, points, best)
    axes.set_ylabel(f"{metric}, %")
    caption = f"On the front: {joined([point.contestant.label for point in best])}."
    return Picture(canvas.svg(f"{metric} against {column.axis}", caption), "", caption)


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


def _shorten(value: float) -> str:
    """1, 500, 20 k, 3 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


# Where a name may stand beside its point, the best first: offset in points, and the share of its
# width and height that lies to the left of and below that.
_BESIDE = np.array(
    (
        ((-5.0, 4.0), (1.0, 0.0)),
        ((-7.0, 0.0), (1.0, 0.5)),
        ((0.0, 6.0), (0.5, 0.0)),
        ((6.0, -5.0), (0.0, 1.0)),
        ((8.0, 0.0), (0.0, 0.5)),
        ((0.0, -7.0), (0.5, 1.0)),
    )
)
# Names: font size, characters, points from the bottom of one to that of the next.
_SIZE, _LONGEST, _HEIGHT = 8.0, 20, 10.0


def _label_points(
    canvas: Canvas, axes: Any, points: Sequence[Point], best: Sequence[Point]
) -> None:
    """Name every point: beside it if there is room, else near it with a line to it."""
    order = sorted(points, key=lambda point: (not point.bold, point not in best, -point.value))
    scale = axes.figure.dpi / 72
    # Matplotlib fits the view to the points only on request.
    axes.autoscale_view()
    # In points from here on: left, bottom, right, top.
    frame = axes.get_window_extent().extents / scale
    marks = [axes.transData.transform((point.cost, point.value)) / scale for point in order]
    names = text.short_names([point.contestant.label for point in order], _LONGEST)
    boxes = [np.concatenate((mark - 3, mark + 3)) for mark in marks]
    for point, mark in zip(order, marks, strict=True):
        look, words = point.contestant.look, names[point.contestant.label]
        size = np.array((width_of(words, _SIZE, bold=point.bold), _HEIGHT))
        box, near = _find_room(mark, size, frame, np.array(boxes))
        boxes.append(box)
        common = {"xy": (point.cost, point.value), "textcoords": "offset points"}
        label = axes.annotate(
            words,
            xytext=box[:2] - mark,
            fontsize=_SIZE,
            ha="left",
            va="bottom",
            color=INK,
            fontweight="bold" if point.bold else "normal",
            **common,
        )
        canvas.tag(label, "curve", "name", look.css)
        if not near:
            # A thin line from the mark to the nearest edge of its name.
            end = np.clip(mark, box[:2], box[2:]) - mark
            thin = {"arrowstyle": "-", "color": look.sentinel, "linewidth": 0.6}
            thin |= {"shrinkA": 0.0, "shrinkB": 0.0}
            arrow = axes.annotate("", xytext=end, arrowprops=thin, **common).arrow_patch
            canvas.tag(arrow, "curve", look.css)


def _find_room(
    mark: np.ndarray, size: np.ndarray, frame: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, bool]:
    """The box for a name of this size inside the frame, and True if it is by its mark.

    Otherwise the nearest free one of a grid, or the one with the least overlap if none is free.
    taken: (boxes, 4). All boxes are left, bottom, right, top.
    """
    beside = mark + _BESIDE[:, 0] - _BESIDE[:, 1] * size
    inside = ((beside >= frame[:2]) & (beside + size <= frame[2:])).all(axis=1)
    free = np.flatnonzero(inside & (_cover(beside, size, taken) == 0))
    if len(free):
        low, near = beside[free[0]], True
    else:
        steps = [
            first + step * np.arange(max(int((last - first) / step), 0) + 1)
            for first, last, step in zip(frame[:2], frame[2:] - size, (4.0, 2.5), strict=True)
        ]
        grid = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 2)
        away = np.maximum(np.maximum(grid - mark, mark - grid - size), 0.0)
        order = np.lexsort((np.hypot(*away.T), _cover(grid, size, taken)))
        low, near = grid[order[0]], False
    return np.concatenate((low, low + size)), near


def _cover(low: np.ndarray, size: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(places,) the covered area of boxes of this size, from their (places, 2) low corners."""
    corners = low[:, None]
    sides = np.minimum(corners + size, taken[:, 2:]) - np.maximum(corners, taken[:, :2])
    area: np.ndarray = np.maximum(sides, 0.0).prod(axis=2).sum(axis=1)
    return area
