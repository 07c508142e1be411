"""Every figure of the page, its series, and its description for readers who cannot see it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot_bench.analysis.formats.style import MOST
from fewshot_bench.analysis.statistics.ranks import (
    average_ranks,
    cliques,
    critical_difference,
    friedman,
)
from fewshot_bench.analysis.table.columns import BILLED, COSTS, Cost, number
from fewshot_bench.analysis.table.significance import RANKED_FROM, rank_score
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.board import MARKS, NOTHING, line
from fewshot_bench.plugins.report.figures import costs, curves, ranks, reliability
from fewshot_bench.plugins.report.figures.svg import WIDTHS, Draw
from fewshot_bench.plugins.report.grid import Column, Field, Grid
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.predictions import Predictions, reliability_of
from fewshot_bench.utils.text import joined

# A cost is drawn if the methods are further apart than this share of the largest.
APART = 0.1


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: `svg` is markup of our own, `title` and `caption` are plain text.

    narrow: the same for a phone, where `svg` would have to be scrolled or could not be read.
    """

    svg: Any
    title: str
    caption: str = ""
    narrow: Any = None


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the legend."""

    label: str
    mark: str
    color: str
    css: str


class Drawings:
    """The figures of one headline; draw: the function of `figures.svg.drawing()`."""

    def __init__(self, chosen: Headline, predictions: Predictions, draw: Draw) -> None:
        self._chosen = chosen
        self._draw = draw
        self._predictions = predictions
        self._drawn = chosen.ordered[:MOST]
        self._metric = chosen.table.main.title

    @property
    def hidden(self) -> int:
        """The number of methods that are in tables only."""
        return len(self._chosen.contestants) - len(self._drawn)

    def legend(self) -> list[Key]:
        """The methods in the figures, in the order of the leaderboard."""
        return [
            Key(c.label, MARKS[c.look.marker], c.look.variable, c.look.css) for c in self._drawn
        ]

    def large(self) -> Picture | None:
        """The headline's group against shots; None where nothing can be drawn."""
        found = panel(self._chosen, self._chosen.group, self._drawn)
        if not found.curves or not curves.shots_of([found]):
            return None
        description = _description(found)
        wide, narrow = (
            self._picture(curves.large, found, page, self._metric, description) for page in WIDTHS
        )
        title = f"{self._metric} against shots: {found.title}"
        return Picture(wide, title, narrow=narrow)

    def panels(self) -> list[Picture]:
        """Small multiples: every group but the large one, if there is more than that."""
        groups = [group for group in self._chosen.shown_groups if group is not self._chosen.group]
        panels = [panel(self._chosen, group, self._drawn) for group in groups]
        panels = [found for found in panels if found.curves]
        shots = curves.shots_of(panels)
        return [
            Picture(
                self._picture(
                    curves.small, found, number, shots, self._metric, _description(found)
                ),
                found.title,
            )
            for number, found in enumerate(panels)
        ]

    def costs(self) -> list[Picture]:
        """Accuracy against each kind of cost in which the methods differ."""
        pictures = []
        for axis in cost_axes(self._chosen, self._drawn):
            if isinstance(axis, str):
                continue
            names = [point.label for point in costs.front(axis.points)]
            caption = f"On the front: {joined(names)}."
            svg = self._picture(costs.draw, axis, self._metric, caption)
            pictures.append(Picture(svg, "", caption))
        return pictures

    def same_costs(self) -> list[str]:
        """Sentences on the costs that are not drawn."""
        return [one for one in cost_axes(self._chosen, self._drawn) if isinstance(one, str)]

    def ranks(self) -> Picture | str:
        """The critical-difference diagram, or why there is none."""
        chosen, methods = self._chosen, self._drawn_with_numbers()
        if len(methods) < 3 or len(chosen.members) < RANKED_FROM:
            return (
                "Ranks need at least three methods with a result on every one of at least "
                f"{RANKED_FROM} data sets."
            )
        metric = chosen.table.metric
        cells = [[chosen.cell(c, group) for c in methods] for group in chosen.members]
        scores = np.array(
            [[rank_score(cell.estimates[metric].mean) for cell in line] for line in cells]
        )
        found = np.asarray(average_ranks(scores), dtype=float)
        statistic, p = friedman(scores)
        gap = float(critical_difference(len(methods), len(chosen.members)))
        joined_by = [tuple(clique) for clique in cliques(found, gap)]
        order = np.argsort(found, kind="stable")
        averages = "; ".join(f"{methods[i].label} {found[i]:.2f}" for i in order)
        bars = [joined([methods[i].label for i in clique]) for clique in joined_by]
        groups = f" Not told apart: {'; '.join(bars)}." if bars else ""
        ranked, sets = len(chosen.ranked), len(chosen.members)
        some = "" if len(methods) == ranked else f"The best {len(methods)} of {ranked} methods. "
        caption = (
            f"{some}Friedman test over {sets} data sets: χ² = {float(statistic):.1f}, "
            f"p {text.p_value(float(p))}. Critical difference {gap:.2f} (Nemenyi, 5 %)."
        )
        description = f"{caption} Average ranks (1 is best): {averages}.{groups}"
        looks = [c.look for c in methods]
        labels = [c.label for c in methods]
        numbers = (found.tolist(), gap, joined_by)
        wide, narrow = (
            self._picture(ranks.draw, page, labels, looks, *numbers, description) for page in WIDTHS
        )
        return Picture(wide, "", caption, narrow)

    def reliability(self) -> list[Picture]:
        """A reliability diagram per method whose logits can be used."""
        pictures: list[Picture] = []
        for contestant in self._drawn_with_numbers():
            error = self._chosen.calibration_error(contestant, self._chosen.group)
            note = "" if error is None else f"ECE {error:.1f} %"
            diagram = reliability_of(self._chosen, self._predictions, contestant, note)
            if diagram is not None:
                description = f"{_lean(diagram)} {note}".strip()
                svg = self._picture(reliability.draw, diagram, len(pictures), description)
                pictures.append(Picture(svg, contestant.label, _lean(diagram)))
        return pictures

    def calibration(self) -> Grid | None:
        """Calibration errors of all methods per data set; None where none is known."""
        methods = self._chosen.ranked
        values = {
            c.row.label: [self._chosen.calibration_error(c, g) for g in self._chosen.members]
            for c in methods
        }
        if not any(value is not None for found in values.values() for value in found):
            return None
        columns = [Column("method", False)]
        columns += [Column(text.short(group.label, 24)) for group in self._chosen.members]
        lines = [line(c, list(map(_error, values[c.row.label]))) for c in methods]
        caption = "Expected calibration error in % (15 bins of equal width), a mean over seeds"
        return Grid("calibration-table", caption, columns, lines, True)

    def _picture(self, figure: Draw, *arguments: object) -> Any:
        """The markup that `figure(*arguments)` draws."""
        from markupsafe import Markup

        return Markup(self._draw(figure, *arguments))

    def _drawn_with_numbers(self) -> list[Contestant]:
        return [contestant for contestant in self._drawn if contestant.cell]


def _error(value: float | None) -> Field:
    return NOTHING if value is None else Field(f"{value:.1f}")


def _lean(found: reliability.Reliability) -> str:
    """Sentence on a method's mean confidence minus its accuracy, over its bins."""
    parts = zip(found.share, found.confidence, found.accuracy, strict=True)
    gap = 100 * math.fsum(share * (sure - right) for share, sure, right in parts)
    if abs(gap) < 0.5:
        return "As sure as it is right."
    return f"{'Overconfident' if gap > 0 else 'Underconfident'} by {abs(gap):.1f} points."


def _description(found: curves.Panel) -> str:
    """The ends of the curves in words; the table below the figures has all numbers."""
    parts: Sequence[str] = [
        f"{curve.label} {text.percent(curve.points[-1][1].mean)} % "
        f"{text.at_shots(curve.points[-1][0])}"
        for curve in sorted(found.curves, key=lambda curve: -curve.points[-1][1].mean)
    ]
    return "; ".join(parts)


def panel(headline: Headline, group: Group, contestants: Sequence[Contestant]) -> curves.Panel:
    """A group's curves by shots."""
    metric = headline.table.metric
    best = headline.ranked[:1]
    found = []
    for contestant in contestants:
        cells = headline.table.line(group, contestant.row)
        points = [
            (cell.shots, cell.estimates[metric]) for cell in cells if metric in cell.estimates
        ]
        if points:
            look = contestant.look
            found.append(curves.Curve(contestant.label, look, points, contestant in best))
    return curves.Panel(text.name(group.label), found)


def cost_axes(headline: Headline, contestants: Sequence[Contestant]) -> list[costs.Axis | str]:
    """Accuracy against each kind of cost that is known of a method, time first.

    A sentence in place of a cost whose differences between methods say nothing.
    """
    best = headline.ranked[:1]
    found: list[costs.Axis | str] = []
    for column in (BILLED, *(other for other in COSTS.values() if other is not BILLED)):
        points = []
        for contestant in contestants:
            cost = contestant.cell.costs.get(column.name) if contestant.cell else None
            if cost is not None:
                value = headline.estimate(contestant).mean
                look, bold = contestant.look, contestant in best
                points.append(costs.Point(contestant.label, look, cost, value, bold))
        if points:
            same = _same(headline, contestants, column, [point.cost for point in points])
            found.append(same or costs.Axis(column.name, column.axis, points))
    return found


def _same(
    headline: Headline, contestants: Sequence[Contestant], column: Cost, values: Sequence[float]
) -> str:
    """Sentence on a cost that hardly differs between methods; empty if it differs.

    It differs if the smallest and the largest are further apart than a tenth of the largest, and
    than runs of one method are in the median over methods and data sets.
    """
    low, high = min(values), max(values)
    noise = statistics.median(_ranges(headline, contestants, column) or [0.0])
    shown = column.words(low), column.words(high)
    if high - low > max(APART * high, noise):
        return ""
    if shown[0] == shown[1]:
        return f"Not drawn: {column.subject}, {shown[0]} for every method."
    near = "within a tenth of the largest"
    if high - low > APART * high:
        near = "no further apart than runs of one method are"
    return f"Not drawn: {column.subject}, {shown[0]} to {shown[1]}, {near}."


def _ranges(headline: Headline, contestants: Sequence[Contestant], column: Cost) -> list[float]:
    """The range of a cost over the seeds of every method on every data set."""
    found = []
    for contestant in contestants:
        for group in headline.members:
            runs = headline.records_of(contestant, group).values()
            values = [number(run.entry(*column.source.split(".", 1))) for run in runs]
            known = [value for value in values if value is not None]
            if len(known) > 1:
                found.append(max(known) - min(known))
    return found
