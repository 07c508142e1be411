"""Curves of the fits behind the headline: a small picture per method, data set and series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from markupsafe import Markup

from fewshot_bench.analysis.curves import order_series
from fewshot_bench.analysis.formats.style import Look
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Headline
from fewshot_bench.utils.text import counted

# Units of a picture, and points of a line: more would not be seen.
WIDTH, HEIGHT, POINTS = 150, 44, 50
# Series of a fit, at most.
MOST_SERIES = 4


class Fit(NamedTuple):
    """A series of one method on one data set, the fits of all seeds together."""

    label: str
    look: Look
    series: str
    caption: str
    svg: Any


def draw_all(headline: Headline, group: Group, number: str) -> list[Fit]:
    """The pictures of a member of the headline; number: of it, for ids."""
    fits = []
    for place, contestant in enumerate(headline.drawn):
        records = list(headline.records_of(contestant, group).values())
        names = order_series(dict.fromkeys(name for r in records for name in r.curves))
        for index, series in enumerate(names[:MOST_SERIES]):
            curves = [record.curves[series] for record in records if series in record.curves]
            caption = _describe(curves)
            title = f"{text.name(series)} of {contestant.label}"
            name = f"fit-{number}-{place}-{index}"
            svg = _draw(curves, contestant.look, name, title, caption)
            fits.append(Fit(contestant.label, contestant.look, text.name(series), caption, svg))
    return fits


def _describe(curves: Sequence[Mapping[str, Any]]) -> str:
    """`2.31 to 0.42 in 500 steps`, of the first seed and the first and last of its values."""
    first = curves[0]
    ends = f"{text.plain(first['values'][0])} to {text.plain(first['values'][-1])}"
    seeds = f", {counted(len(curves), 'seed')}" if len(curves) > 1 else ""
    return f"{ends} in {counted(first['steps'][-1], 'step')}{seeds}"


def _draw(
    curves: Sequence[Mapping[str, Any]], look: Look, name: str, title: str, caption: str
) -> Any:
    values = [value for curve in curves for value in curve["values"]]
    low, high = min(values), max(values)
    last = max(curve["steps"][-1] for curve in curves)
    lines = {_trace(curve, last, low, high) for curve in curves}
    parts = "".join(f'<polyline points="{points}"/>' for points in sorted(lines))
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(caption)}</desc>'
        f'<g class="curve {look.css}" fill="none" stroke="{look.variable}">{parts}</g></svg>'
    )


def _trace(curve: Mapping[str, Any], last: int, low: float, high: float) -> str:
    """The points of a line, with the first and the last one; equal curves give equal texts."""
    points = list(zip(curve["steps"], curve["values"], strict=True))
    every = -(-len(points) // (POINTS - 1))
    kept = dict([points[0], *points[::-1][::every][::-1]]).items()
    span = (high - low) or 1.0
    spots = (
        (round(step / (last or 1) * WIDTH), round((high - value) / span * (HEIGHT - 2) + 1))
        for step, value in kept
    )
    return " ".join(f"{x},{y}" for x, y in spots)
