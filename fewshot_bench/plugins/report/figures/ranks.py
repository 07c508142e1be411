"""The critical-difference diagram (Demsar 2006, figure 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.formats.style import INK, Look
from fewshot_bench.analysis.statistics.ranks import (
    average_ranks,
    cliques,
    critical_difference,
    friedman,
)
from fewshot_bench.analysis.table.significance import RANKED_FROM, rank_score
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import WIDTHS, Canvas, Page, Picture, draw_twice
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.utils.text import joined

ROW, BAR, TOP = 0.24, 0.13, 0.62
# Characters of a name.
LONGEST: Mapping[Page, int] = {"wide": 22, "narrow": 15}


class Ranks(NamedTuple):
    """Average ranks of methods, the best first; `difference` is the critical one of two ranks.

    bars: indices of methods that are not told apart.
    """

    methods: Sequence[Contestant]
    average: Sequence[float]
    difference: float
    bars: Sequence[Sequence[int]]


def draw(headline: Headline) -> Picture | str:
    """The diagram, or why there is none."""
    methods = [contestant for contestant in headline.drawn if contestant.cell]
    sets, ranked = len(headline.members), len(headline.ranked)
    if len(methods) < 3 or sets < RANKED_FROM:
        return (
            "Ranks need at least three methods with a result on every one of at least "
            f"{RANKED_FROM} data sets."
        )
    metric = headline.table.metric
    cells = [[headline.cell(method, group) for method in methods] for group in headline.members]
    scores = np.array([[rank_score(cell.estimates[metric].mean) for cell in row] for row in cells])
    average = np.asarray(average_ranks(scores), dtype=float)
    statistic, p = friedman(scores)
    difference = float(critical_difference(len(methods), sets))
    order = np.argsort(average, kind="stable")
    average = average[order]
    methods = [methods[index] for index in order]
    ranks = Ranks(methods, average.tolist(), difference, cliques(average, difference))
    some = "" if len(methods) == ranked else f"The best {len(methods)} of {ranked} methods. "
    caption = (
        f"{some}Friedman test over {sets} data sets: χ² = {float(statistic):.1f}, "
        f"p {text.p_value(float(p))}. Critical difference {difference:.2f} (Nemenyi, 5 %)."
    )
    averages = zip(methods, ranks.average, strict=True)
    listed = "; ".join(f"{method.label} {rank:.2f}" for method, rank in averages)
    bars = [joined([methods[i].label for i in bar]) for bar in ranks.bars]
    groups = f" Not told apart: {'; '.join(bars)}." if bars else ""
    description = f"{caption} Average ranks (1 is best): {listed}.{groups}"
    return draw_twice("", caption, lambda page: _draw(page, ranks, description))


def _draw(page: Page, ranks: Ranks, description: str) -> Any:
    """Average ranks on a line, the best on the left; bars join methods without clear difference."""
    count = len(ranks.methods)
    half = math.ceil(count / 2)
    first = TOP + BAR * len(ranks.bars) + 0.2
    height = first + ROW * half + 0.1
    canvas = Canvas(f"ranks-{page}", WIDTHS[page], height)
    side = 0.24 if page == "wide" else 0.36
    axes = canvas.figure.add_axes((side, 0.0, 1 - 2 * side, 1.0))
    axes.set_axis_off()
    axes.set_xlim(1, count)
    axes.set_ylim(height, 0)
    _draw_scale(axes, count, ranks.difference)
    for number, (method, rank) in enumerate(zip(ranks.methods, ranks.average, strict=True)):
        left = number < half
        y = first + ROW * (number if left else count - 1 - number)
        name = text.short(method.label, LONGEST[page])
        words = f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}"
        _draw_stem(canvas, axes, method.look, rank, words, y, left=left, bold=number == 0)
    for number, bar in enumerate(ranks.bars):
        ends = [ranks.average[index] for index in bar]
        y = TOP + 0.1 + BAR * number
        axes.plot([min(ends), max(ends)], [y, y], color=INK, linewidth=3.2, clip_on=False)
    return canvas.svg("Average ranks with critical difference", description)


def _draw_scale(axes: Any, count: int, difference: float) -> None:
    axes.plot([1, count], [TOP, TOP], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [TOP - 0.06, TOP], color=INK, linewidth=1, clip_on=False)
        axes.text(rank, TOP - 0.1, str(rank), ha="center", va="bottom", fontsize=8)
    width = min(difference, count - 1)
    axes.plot([1, 1 + width], [0.24, 0.24], color=INK, linewidth=1.6, clip_on=False)
    for end in (1, 1 + width):
        axes.plot([end, end], [0.19, 0.29], color=INK, linewidth=1.2, clip_on=False)
    axes.text(1, 0.15, f"critical difference {difference:.2f}", ha="left", va="bottom", fontsize=8)


def _draw_stem(
    canvas: Canvas,
    axes: Any,
    look: Look,
    rank: float,
    words: str,
    y: float,
    *,
    left: bool,
    bold: bool,
) -> None:
    """Draw a line from a rank down and to the side, with the name at its end."""
    low, high = axes.get_xlim()
    span = high - low
    side = low - 0.03 * span if left else high + 0.03 * span
    canvas.plot(axes, [rank, rank, side], [TOP, y, y], look, linewidth=1.1, clip_on=False)
    mark = {"marker": look.marker, "markersize": 5 * look.scale, "clip_on": False}
    canvas.plot(axes, [rank], [TOP], look, **mark)
    at = side + (-0.01 if left else 0.01) * span, y
    canvas.write(axes, at, words, look, ha="right" if left else "left", fontsize=8.5, bold=bold)
