"""Accuracy against cost, with the methods that no other beats in both (Pareto front)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.figures.costs import NEAR, set_axis
from fewshot_bench.analysis.figures.labels import place_names, width_of
from fewshot_bench.analysis.formats.style import FAINT, INK
from fewshot_bench.analysis.table.costs import BILLED, COSTS, Cost, number
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import Canvas, Picture
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.utils.text import joined

# A cost is drawn if the methods are further apart than this share of the largest.
APART = 0.1


class Point(NamedTuple):
    """A method: its cost, and the value of its metric in percent; bold: the best of all."""

    contestant: Contestant
    cost: float
    value: float
    bold: bool = False


def draw_all(headline: Headline) -> tuple[list[Picture], list[str]]:
    """Accuracy against each kind of cost in which the methods differ, time first.

    A sentence in place of a cost whose differences between methods say nothing.
    """
    pictures, sentences = [], []
    best = next(iter(headline.ranked), None)
    for column in sorted(COSTS.values(), key=lambda column: column is not BILLED):
        points = [
            Point(contestant, cost, headline.estimate(contestant).mean, contestant is best)
            for contestant in headline.drawn
            if contestant.cell and (cost := contestant.cell.costs.get(column.name)) is not None
        ]
        alike = _explain_alike(headline, column, points) if points else ""
        if alike:
            sentences.append(alike)
        elif points:
            pictures.append(_draw(headline.table.main.title, column, points))
    return pictures, sentences


def _explain_alike(headline: Headline, column: Cost, points: Sequence[Point]) -> str:
    """Sentence on a cost that hardly differs between methods; empty if it differs.

    It differs if the smallest and the largest are further apart than a tenth of the largest, and
    than runs of one method are in the median over methods and data sets.
    """
    low, high = min(point.cost for point in points), max(point.cost for point in points)
    ranges = []
    for contestant in headline.drawn:
        for group in headline.members:
            runs = headline.records_of(contestant, group).values()
            values = [number(run.entry(*column.source.split(".", 1))) for run in runs]
            costs = [value for value in values if value is not None]
            if len(costs) > 1:
                ranges.append(max(costs) - min(costs))
    if high - low > max(APART * high, statistics.median(ranges or [0.0])):
        return ""
    ends = column.words(low), column.words(high)
    if ends[0] == ends[1]:
        return f"Not drawn: {column.subject}, {ends[0]} for every method."
    near = "within a tenth of the largest"
    if high - low > APART * high:
        near = "no further apart than runs of one method are"
    return f"Not drawn: {column.subject}, {ends[0]} to {ends[1]}, {near}."


def front(points: Sequence[Point], sign: int = 1) -> list[Point]:
    """The points that no other point beats: none is cheaper and as good, or as cheap and better.

    Sorted by cost, the best first. sign: -1 for a cost of which higher is better.
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (sign * point.cost, -point.value)):
        if not kept or point.value > kept[-1].value:
            kept.append(point)
    return kept


def _draw(metric: str, column: Cost, points: Sequence[Point]) -> Picture:
    """One kind of cost, with the front of the methods that no other one beats."""
    canvas = Canvas(f"cost-{column.name}", 3.5, 2.9)
    axes = canvas.figure.add_axes((0.17, 0.15, 0.81, 0.82))
    best = front(points, -1 if column.higher_is_better else 1)
    ends = [point.cost for point in best], [point.value for point in best]
    (line,) = axes.step(*ends, where="post", color=INK, linewidth=0.9, alpha=0.55)
    canvas.tag(line, "front")
    for point in points:
        look = point.contestant.look
        size = (8 if point.bold else 6.5) * look.scale
        canvas.plot(axes, [point.cost], [point.value], look, marker=look.marker, markersize=size)
    axes.margins(x=0.12, y=0.14)
    set_axis(axes, [point.cost for point in points])
    axes.set_xlabel(column.axis)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _label_points(canvas, axes, points, best)
    axes.set_ylabel(f"{metric}, %")
    caption = f"On the front: {joined([point.contestant.label for point in best])}."
    return Picture(canvas.svg(f"{metric} against {column.axis}", caption), "", caption)


# Names: font size, characters, points from the bottom of one to that of the next.
_SIZE, _LONGEST, _HEIGHT = 8.0, 20, 10.0


def _label_points(
    canvas: Canvas, axes: Any, points: Sequence[Point], best: Sequence[Point]
) -> None:
    """Name every point: at the nearest place that is free, with a line if that is not near."""
    order = sorted(points, key=lambda point: (not point.bold, point not in best, -point.value))
    scale = axes.figure.dpi / 72
    # Matplotlib fits the view to the points only on request.
    axes.autoscale_view()
    # In points from here on: left, bottom, right, top.
    frame = axes.get_window_extent().extents / scale
    marks = [axes.transData.transform((point.cost, point.value)) / scale for point in order]
    names = text.short_names([point.contestant.label for point in order], _LONGEST)
    sizes = [
        np.array((width_of(names[point.contestant.label], _SIZE, bold=point.bold), _HEIGHT))
        for point in order
    ]
    places = place_names(marks, sizes, frame)
    for point, mark, size, (low, gap) in zip(order, marks, sizes, places, strict=True):
        look, words = point.contestant.look, names[point.contestant.label]
        common = {"xy": (point.cost, point.value), "textcoords": "offset points"}
        label = axes.annotate(
            words,
            xytext=low - mark,
            fontsize=_SIZE,
            ha="left",
            va="bottom",
            color=INK,
            fontweight="bold" if point.bold else "normal",
            **common,
        )
        canvas.tag(label, "curve", "name", look.css)
        if gap > NEAR:
            # A thin line from the mark to the nearest edge of its name.
            end = np.clip(mark, low, low + size) - mark
            thin = {"arrowstyle": "-", "color": look.sentinel, "linewidth": 0.6}
            thin |= {"shrinkA": 0.0, "shrinkB": 0.0}
            arrow = axes.annotate("", xytext=end, arrowprops=thin, **common).arrow_patch
            canvas.tag(arrow, "curve", look.css)
