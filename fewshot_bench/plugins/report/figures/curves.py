"""Accuracy against shots: one large panel for the group of the headline, small ones for all others.

After figure 2 of CLIP-LoRA (Zanella and Ben Ayed, CVPR Workshops 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_bench.analysis.figures.labels import width_of
from fewshot_bench.analysis.formats.style import Look
from fewshot_bench.analysis.statistics.intervals import Estimate, with_gaps
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import WIDTHS, Canvas, Page, Picture, draw_twice
from fewshot_bench.plugins.report.headline import Headline

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
    points: Mapping[int, Estimate]
    bold: bool = False

    @property
    def last(self) -> tuple[int, float]:
        """The largest number of shots, and the mean there."""
        shots, estimate = list(self.points.items())[-1]
        return shots, estimate.mean

    @property
    def is_flat(self) -> bool:
        """True for a method without shots."""
        return list(self.points) == [0]


def draw_large(headline: Headline) -> Picture | None:
    """The headline's group over the width of the page; None where nothing can be drawn."""
    title = text.name(headline.group.label)
    curves = _curves_of(headline, headline.group)
    if not _shots_of(curves):
        return None
    about = f"{headline.table.main.title} against shots: {title}"

    def draw(page: Page) -> Any:
        return _draw_large(page, curves, headline.table.main.title, about)

    return draw_twice(about, "", draw)


def draw_panels(headline: Headline) -> list[Picture]:
    """Small multiples: every group but the large one, if there is more than that."""
    metric = headline.table.main.title
    groups = [group for group in headline.shown_groups if group is not headline.group]
    panels = [(text.name(group.label), _curves_of(headline, group)) for group in groups]
    panels = [(title, curves) for title, curves in panels if curves]
    shots = _shots_of([curve for _, curves in panels for curve in curves])
    pictures = []
    for number, (title, curves) in enumerate(panels):
        canvas = Canvas(f"panel-{number}", 2.6, 1.9)
        axes = canvas.figure.add_axes((0.16, 0.21, 0.81, 0.75))
        _draw_curves(canvas, axes, curves, shots)
        axes.set_xlabel("shots", labelpad=1)
        svg = canvas.svg(f"{title}: {metric} against shots", _describe(curves))
        pictures.append(Picture(svg, title))
    return pictures


def _curves_of(headline: Headline, group: Group) -> list[Curve]:
    metric = headline.table.metric
    curves = []
    for contestant in headline.drawn:
        cells = headline.table.line(group, contestant.row)
        points = {cell.shots: cell.estimates[metric] for cell in cells if metric in cell.estimates}
        if points:
            bold = contestant in headline.ranked[:1]
            curves.append(Curve(contestant.label, contestant.look, points, bold))
    return curves


def _shots_of(curves: Sequence[Curve]) -> list[int]:
    """The numbers of shots on the axis: all that any curve has."""
    return sorted({shots for curve in curves for shots in curve.points} - {0})


def _describe(curves: Sequence[Curve]) -> str:
    """The ends of the curves in words; the table below the figures has all numbers."""
    ends = sorted(((curve.label, *curve.last) for curve in curves), key=lambda end: -end[2])
    parts = [
        f"{label} {text.percent(mean)} % {text.at_shots(shots)}" for label, shots, mean in ends
    ]
    return "; ".join(parts)


def _draw_large(page: Page, curves: Sequence[Curve], metric: str, about: str) -> Any:
    """The panel with the names at the ends of the lines."""
    shorter = text.short_names([curve.label for curve in curves], LONGEST[page])
    ends = [
        (curve, f"{shorter[curve.label]}  {text.percent(curve.last[1])}")
        for curve in sorted(curves, key=lambda curve: curve.last[1])
    ]
    room = 2.3 if page == "wide" else 3.0
    height = 0.65 + max(room, len(ends) * LABEL_HEIGHT / 72)
    canvas = Canvas(f"curves-{page}", WIDTHS[page], height)
    names = max((width_of(words, SIZE, bold=curve.bold) for curve, words in ends), default=0.0)
    points = canvas.figure.get_figwidth() * 72
    left, right = 36 / points, (names + BESIDE + 4) / points
    below, above = 0.5 / height, 0.15 / height
    axes = canvas.figure.add_axes((left, below, 1 - left - right, 1 - below - above))
    _draw_curves(canvas, axes, curves, _shots_of(curves))
    axes.set_ylabel(f"{metric}, %")
    axes.set_xlabel("shots (images per class)")
    _label_ends(canvas, axes, ends)
    return canvas.svg(about, _describe(curves))


def _draw_curves(canvas: Canvas, axes: Any, curves: Sequence[Curve], shots: Sequence[int]) -> None:
    at = {count: float(index) for index, count in enumerate(shots)} or {0: 0.0}
    left, right = -_pad(len(at)), max(at.values()) + _pad(len(at))
    own = _shots_of(curves)
    for curve in sorted(curves, key=lambda curve: curve.bold):
        if curve.is_flat:
            level = [curve.last[1]] * 2
            dots = (0, (1.0, 2.2))
            canvas.plot(axes, [left, right], level, curve.look, linewidth=1.6, linestyle=dots)
            continue
        # A number that another method has and this one lacks is a gap, never interpolated.
        means, low, high = with_gaps(curve.points, own)
        xs = [at[count] for count in own]
        band = axes.fill_between(xs, low, high, color=curve.look.sentinel, alpha=BAND, linewidth=0)
        canvas.tag(band, "band", curve.look.css, *(("lead",) if curve.bold else ()))
        canvas.plot(
            *(axes, xs, means, curve.look),
            linewidth=2.2 if curve.bold else 1.2,
            linestyle=curve.look.line,
            marker=curve.look.marker,
            markersize=(5.0 if curve.bold else 3.8) * curve.look.scale,
        )
    axes.set_xlim(left, right)
    axes.set_xticks(list(at.values()), [str(count) for count in at])
    # The scale fits the means; wide intervals of few seeds may leave the panel.
    means = [estimate.mean for curve in curves for estimate in curve.points.values()]
    room = max(0.08 * (max(means) - min(means)), 0.5)
    axes.set_ylim(min(means) - room, max(means) + room)


def _pad(count: int) -> float:
    """Room before the first and behind the last of so many numbers of shots, which are 1 apart."""
    return 0.07 * max(count - 1, 1)


def _label_ends(canvas: Canvas, axes: Any, ends: Sequence[tuple[Curve, str]]) -> None:
    """Names beside the last points, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    height = axes.get_position().height * canvas.figure.get_figheight() * 72
    gap = (high - low) * LABEL_HEIGHT / height
    left, right = axes.get_xlim()
    point = (right - left) / (axes.get_position().width * canvas.figure.get_figwidth() * 72)
    last = round(right - _pad(len(axes.get_xticks())))
    levels = spread([curve.last[1] for curve, _ in ends], gap, low, high)
    for (curve, words), level in zip(ends, levels, strict=True):
        mean, look = curve.last[1], curve.look
        start = right if curve.is_flat else last
        ends_at = [start, right, right + 0.5 * BESIDE * point]
        thin = {"linewidth": 0.7, "alpha": 0.7, "clip_on": False}
        canvas.plot(axes, ends_at, [mean, mean, level], look, **thin)
        mark = {"marker": look.marker, "markersize": 4.6 * look.scale, "clip_on": False}
        canvas.plot(axes, [right + 0.7 * BESIDE * point], [level], look, **mark)
        beside = right + BESIDE * point, level
        canvas.write(axes, beside, words, look, "end", fontsize=SIZE, bold=curve.bold)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Levels at least `gap` apart, close to sorted `values`; between low and high if they fit.

    Values that would overlap form a block around their mean (pool adjacent violators), such as
    [5, 5, 5] with a gap of 1: [4, 5, 6].
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
