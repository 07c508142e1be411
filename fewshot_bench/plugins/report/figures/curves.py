"""Accuracy against shots: one large panel for the group of the headline, small ones for all.

After figure 2 of CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.formats.style import INK, Look
from fewshot_bench.analysis.statistics.intervals import Estimate, with_gaps
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import WIDTHS, Canvas, Page, width_of

BAND = 0.13
# Vertical room of one label in a figure, in points.
LABEL_HEIGHT = 11.0
SIZE = 8.5
# Characters of a name at the end of a curve.
LONGEST: Mapping[Page, int] = {"wide": 40, "narrow": 16}
# Points from the axes to a name: a line to it, and the mark before it.
BESIDE = 22.0


@dataclass(frozen=True, slots=True)
class Curve:
    """One method in one panel: estimates by shots; shots 0 is a method without a support set."""

    label: str
    look: Look
    points: Sequence[tuple[int, Estimate]]
    bold: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of the table."""

    title: str
    curves: Sequence[Curve]


def large(panel: Panel, page: Page, metric: str, description: str) -> str:
    """One panel over the width of the page, with the names at the ends of the lines."""
    ends = _ends(panel, LONGEST[page])
    room = 2.3 if page == "wide" else 3.0
    height = 0.65 + max(room, len(ends) * LABEL_HEIGHT / 72)
    canvas = Canvas(f"curves-{page}", WIDTHS[page], height)
    names = max((width_of(end.words, SIZE, bold=end.curve.bold) for end in ends), default=0.0)
    points = canvas.figure.get_figwidth() * 72
    left, right = 36 / points, (names + BESIDE + 4) / points
    below, above = 0.5 / height, 0.15 / height
    axes = canvas.figure.add_axes((left, below, 1 - left - right, 1 - below - above))
    shots = shots_of([panel])
    _draw(canvas, axes, panel, shots)
    axes.set_ylabel(f"{metric}, %")
    axes.set_xlabel("shots (images per class)")
    _label_ends(canvas, axes, ends)
    return canvas.svg(f"{metric} against shots: {panel.title}", description)


def small(panel: Panel, number: int, shots: Sequence[int], metric: str, description: str) -> str:
    """One of the small multiples, with a scale of its own over the shots of all of them."""
    canvas = Canvas(f"panel-{number}", 2.6, 1.9)
    axes = canvas.figure.add_axes((0.16, 0.21, 0.81, 0.75))
    _draw(canvas, axes, panel, shots)
    axes.set_xlabel("shots", labelpad=1)
    return canvas.svg(f"{panel.title}: {metric} against shots", description)


def shots_of(panels: Sequence[Panel]) -> list[int]:
    """The numbers of shots on the axis: all that any panel has."""
    found = {k for panel in panels for curve in panel.curves for k, _ in curve.points}
    return sorted(found - {0})


def _draw(canvas: Canvas, axes: Any, panel: Panel, shots: Sequence[int]) -> None:
    place = {count: float(index) for index, count in enumerate(shots)} or {0: 0.0}
    pad = _pad(len(place))
    left, right = -pad, max(place.values()) + pad
    own = shots_of([panel])
    for curve in sorted(panel.curves, key=lambda curve: curve.bold):
        if [k for k, _ in curve.points] == [0]:
            _flat(canvas, axes, curve, left, right)
            continue
        # A number that another method has and this one lacks is a gap, never interpolated.
        means, low, high = with_gaps(dict(curve.points), own)
        xs = [place[k] for k in own]
        color = curve.look.sentinel
        band = axes.fill_between(xs, low, high, color=color, alpha=BAND, linewidth=0)
        canvas.tag(band, "band", curve.look.css, *(("lead",) if curve.bold else ()))
        (line,) = axes.plot(
            *(xs, means),
            color=color,
            linewidth=2.2 if curve.bold else 1.2,
            linestyle=curve.look.line,
            marker=curve.look.marker,
            markersize=(5.0 if curve.bold else 3.8) * curve.look.scale,
            markeredgewidth=0,
        )
        canvas.tag(line, "curve", curve.look.css)
    axes.set_xlim(left, right)
    axes.set_xticks(list(place.values()), [str(count) for count in place])
    _limit(axes, panel)


def _pad(count: int) -> float:
    """Room before the first and behind the last of so many numbers of shots, which are 1 apart."""
    return 0.07 * max(count - 1, 1)


def _flat(canvas: Canvas, axes: Any, curve: Curve, left: float, right: float) -> None:
    """Draw a method without shots as a horizontal line over the whole width."""
    mean = curve.points[0][1].mean
    (line,) = axes.plot(
        *([left, right], [mean, mean]),
        color=curve.look.sentinel,
        linewidth=1.6,
        linestyle=(0, (1.0, 2.2)),
    )
    canvas.tag(line, "curve", curve.look.css)


def _limit(axes: Any, panel: Panel) -> None:
    """Fit the scale to the means; wide intervals of few seeds may leave the panel."""
    means = [value.mean for curve in panel.curves for _, value in curve.points]
    if means:
        room = max(0.08 * (max(means) - min(means)), 0.5)
        axes.set_ylim(min(means) - room, max(means) + room)


@dataclass(frozen=True, slots=True)
class _End:
    """The last number of a curve, and the text beside it."""

    curve: Curve
    mean: float
    words: str


def _ends(panel: Panel, longest: int) -> list[_End]:
    """The ends of all curves, from the lowest to the highest."""
    found = [(curve, curve.points[-1][1].mean) for curve in panel.curves if curve.points]
    names = text.short_names([curve.label for curve, _ in found], longest)
    ends = [
        _End(curve, mean, f"{names[curve.label]}  {text.percent(mean)}") for curve, mean in found
    ]
    return sorted(ends, key=lambda end: end.mean)


def _label_ends(canvas: Canvas, axes: Any, ends: Sequence[_End]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * canvas.figure.get_figheight() * 72
    gap = (high - low) * LABEL_HEIGHT / height
    left, right = axes.get_xlim()
    point = (right - left) / (axes.get_position().width * canvas.figure.get_figwidth() * 72)
    last = round(right - _pad(len(axes.get_xticks())))
    places = spread([end.mean for end in ends], gap, low, high)
    for end, place in zip(ends, places, strict=True):
        curve = end.curve
        start = right if [k for k, _ in curve.points] == [0] else last
        (line,) = axes.plot(
            *([start, right, right + 0.5 * BESIDE * point], [end.mean, end.mean, place]),
            color=curve.look.sentinel,
            linewidth=0.7,
            alpha=0.7,
            clip_on=False,
        )
        canvas.tag(line, "curve", curve.look.css)
        axes.plot(
            *([right + 0.7 * BESIDE * point], [place]),
            color=curve.look.sentinel,
            marker=curve.look.marker,
            markersize=4.6 * curve.look.scale,
            markeredgewidth=0,
            clip_on=False,
        )
        label = axes.text(
            *(right + BESIDE * point, place, end.words),
            color=INK,
            va="center",
            fontsize=SIZE,
            fontweight="bold" if curve.bold else "normal",
        )
        canvas.tag(label, "curve", "end", curve.look.css)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, close to sorted `values`; between low and high if they fit.

    Values that would overlap form a block around their mean (pool adjacent violators).
    """
    blocks: list[tuple[float, int]] = []
    for index, value in enumerate(values):
        mean, size = value - index * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (other * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    starts = [mean for mean, size in blocks for _ in range(size)]
    top = high - gap * (len(values) - 1)
    return [max(min(start, top), low) + index * gap for index, start in enumerate(starts)]
