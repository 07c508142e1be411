"""Series for the figures, from the table."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.analysis.formats.style import MOST
from fewshot_bench.analysis.table.columns import BILLED, COSTS
from fewshot_bench.analysis.table.model import Group
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures import costs, curves
from fewshot_bench.plugins.report.headline import Contestant, Headline


def drawn(headline: Headline) -> list[Contestant]:
    """The contestants in the figures: ranked by the headline, then those without a number."""
    ranked = headline.ranked
    others = [contestant for contestant in headline.contestants if not contestant.cell]
    return [*ranked, *others][:MOST]


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


def cost_axes(headline: Headline, contestants: Sequence[Contestant]) -> list[costs.Axis]:
    """Accuracy against each kind of cost that is known of a method, time first."""
    best = headline.ranked[:1]
    found = []
    for column in (BILLED, *(other for other in COSTS.values() if other is not BILLED)):
        points = []
        for contestant in contestants:
            cost = contestant.cell.costs.get(column.name) if contestant.cell else None
            if cost is not None:
                value = headline.estimate(contestant).mean
                look, bold = contestant.look, contestant in best
                points.append(costs.Point(contestant.label, look, cost, value, bold))
        if points:
            found.append(costs.Axis(column.name, column.axis, points))
    return found
