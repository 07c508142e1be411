"""Accuracy against what it costs, with the methods that no other beats in both (Pareto front)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.report import text
from fewshot_bench.report.figures.style import FAINT, INK, Look
from fewshot_bench.report.figures.svg import Canvas


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
    if min(costs) <= 0:
        axes.set_xscale("symlog", linthresh=least, linscale=0.6)
    else:
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
    axes.margins(x=0.18, y=0.12)
    axes.set_xlabel(axis.title)
    axes.minorticks_off()
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    _label(canvas, axes, best)


def _label(canvas: Canvas, axes: Any, best: Sequence[Point]) -> None:
    """Names of the front alone: they rise from left to right, so that few of them meet."""
    for point in best:
        label = axes.annotate(
            text.short(point.label, 16),
            (point.cost, point.value),
            xytext=(-5, 6),
            textcoords="offset points",
            fontsize=8,
            ha="right" if point is best[-1] and len(best) > 1 else "center",
            color=INK,
            fontweight="bold" if point.bold else "normal",
        )
        canvas.tag(label, "curve", point.look.css)
