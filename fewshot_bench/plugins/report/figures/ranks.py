"""The critical-difference diagram (Demsar 2006, figure 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot_bench.analysis.formats.style import INK, Look
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.svg import WIDTHS, Canvas, Page

ROW, BAR, TOP = 0.24, 0.13, 0.62
# Characters of a name.
LONGEST: Mapping[Page, int] = {"wide": 22, "narrow": 15}


def draw(
    page: Page,
    labels: Sequence[str],
    looks: Sequence[Look],
    ranks: Sequence[float],
    difference: float,
    cliques: Sequence[Sequence[int]],
    description: str,
) -> str:
    """Average ranks on a line, the best on the left; bars join methods without clear difference.

    difference: the critical difference of two average ranks; cliques: indices of such methods.
    """
    count = len(labels)
    half = math.ceil(count / 2)
    bars = BAR * len(cliques)
    height = TOP + bars + 0.2 + ROW * half + 0.1
    canvas = Canvas(f"ranks-{page}", WIDTHS[page], height)
    side = 0.24 if page == "wide" else 0.36
    axes = canvas.figure.add_axes((side, 0.0, 1 - 2 * side, 1.0))
    axes.set_axis_off()
    axes.set_xlim(1, max(count, 2))
    axes.set_ylim(height, 0)
    _scale(axes, count, difference)
    order = sorted(range(count), key=lambda index: ranks[index])
    for number, index in enumerate(order):
        left = number < half
        row = number if left else count - 1 - number
        y = TOP + bars + 0.2 + ROW * row
        _stem(
            canvas,
            axes,
            text.short(labels[index], LONGEST[page]),
            looks[index],
            ranks[index],
            y,
            left,
            number == 0,
        )
    for number, clique in enumerate(cliques):
        places = [ranks[index] for index in clique]
        y = TOP + 0.1 + BAR * number
        axes.plot([min(places), max(places)], [y, y], color=INK, linewidth=3.2, clip_on=False)
    return canvas.svg("Average ranks with critical difference", description)


def _scale(axes: Any, count: int, difference: float) -> None:
    axes.plot([1, max(count, 2)], [TOP, TOP], color=INK, linewidth=1, clip_on=False)
    for rank in range(1, max(count, 2) + 1):
        axes.plot([rank, rank], [TOP - 0.06, TOP], color=INK, linewidth=1, clip_on=False)
        axes.text(rank, TOP - 0.1, str(rank), ha="center", va="bottom", fontsize=8)
    width = min(difference, max(count, 2) - 1)
    axes.plot([1, 1 + width], [0.24, 0.24], color=INK, linewidth=1.6, clip_on=False)
    for end in (1, 1 + width):
        axes.plot([end, end], [0.19, 0.29], color=INK, linewidth=1.2, clip_on=False)
    axes.text(1, 0.15, f"critical difference {difference:.2f}", ha="left", va="bottom", fontsize=8)


def _stem(
    canvas: Canvas,
    axes: Any,
    label: str,
    look: Look,
    rank: float,
    y: float,
    left: bool,
    first: bool,
) -> None:
    """Draw a line from a rank down and to the side, with the name at its end."""
    low, high = axes.get_xlim()
    span = high - low
    side = low - 0.03 * span if left else high + 0.03 * span
    (line,) = axes.plot(
        *([rank, rank, side], [TOP, y, y]), color=look.sentinel, linewidth=1.1, clip_on=False
    )
    (mark,) = axes.plot(
        *([rank], [TOP]),
        color=look.sentinel,
        marker=look.marker,
        markersize=5 * look.scale,
        markeredgewidth=0,
        clip_on=False,
    )
    shown = f"{rank:.2f}  {label}" if not left else f"{label}  {rank:.2f}"
    words = axes.text(
        *(side + (-0.01 if left else 0.01) * span, y, shown),
        ha="right" if left else "left",
        va="center",
        fontsize=8.5,
        fontweight="bold" if first else "normal",
    )
    for artist in (line, mark, words):
        canvas.tag(artist, "curve", look.css)
