"""Accuracy over shots as a figure: a panel per data set, the average first.

After figure 3 of CoOp (Zhou et al., IJCV 2022).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.style import COLORS, SETTINGS, looks
from fewshot_bench.analysis.statistics.intervals import with_gaps
from fewshot_bench.analysis.table.table import Group, Row, Table
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".svg", ".png")
_ACROSS = 4
# Inches of a panel and of a legend line; legend entries per line.
_WIDTH, _HEIGHT, _LEGEND, _ENTRIES = 2.7, 2.2, 0.25, 4
_BAND = 0.12


def panels(table: Table) -> list[Group]:
    """Groups with any number: averages over several groups first, then the others."""
    averages = [g for g in table.groups if g.average and len(table.members(g)) > 1]
    others = [group for group in table.groups if not group.average]
    return [group for group in (*averages, *others) if _has_number(table, group)]


def save(
    drawn: Figure, form: str, about: str, style: Any = SETTINGS, *, transparent: bool = False
) -> bytes:
    """The content of a figure's file in format `pdf`, `svg` or `png`.

    about: what the file says about itself; it states no date, so that equal content gives equal
    files. style: matplotlib's settings.
    """
    import matplotlib

    names = {"svg": ("Description", "Date"), "pdf": ("Subject", "CreationDate")}
    subject, date = names.get(form, ("Description", ""))
    metadata = {subject: about} | ({date: None} if date else {})
    buffer = io.BytesIO()
    look: Any = {"dpi": 200, "transparent": transparent}
    with matplotlib.rc_context(style):
        drawn.savefig(buffer, format=form, metadata=metadata, **look)
    return buffer.getvalue()


def figure(table: Table) -> Figure:
    """The figure. Missing cells are gaps, never interpolated."""
    import matplotlib
    from matplotlib.figure import Figure

    groups = panels(table)
    across = min(_ACROSS, len(groups))
    down = math.ceil(len(groups) / across)
    below = math.ceil(len(table.rows) / min(_ENTRIES, across * 2))
    size = (across * _WIDTH, down * _HEIGHT + below * _LEGEND + 0.2)
    with matplotlib.rc_context(SETTINGS):
        drawn = Figure(figsize=size, layout="constrained")
        grid: Any = drawn.subplots(down, across, squeeze=False)
        panes = [axes for line in grid for axes in line]
        for axes, group in zip(panes, groups, strict=False):
            _draw_panel(axes, table, group)
        for axes in panes[len(groups) :]:
            axes.set_axis_off()
        for line in grid:
            line[0].set_ylabel(table.main.quantity)
        handles, labels = _legend(panes[: len(groups)])
        columns = min(_ENTRIES, across * 2, max(len(labels), 1))
        drawn.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return drawn


def _legend(panes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels over all panels, each method once."""
    handles: dict[str, Any] = {}
    for axes in panes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return list(handles.values()), list(handles)


def _draw_panel(axes: Axes, table: Table, group: Group) -> None:
    shots = [number for number in group.shots if number]
    style_of = looks([row.label for row in table.rows])
    for row in table.rows:
        look = style_of[row.label]
        style = {
            "color": COLORS[look.color][0],
            "linestyle": look.line,
            "marker": look.marker,
            "markersize": 3.5 * look.scale,
            "markeredgewidth": 0,
            "label": _text(row.title),
            "linewidth": 1.2,
        }
        _draw_row(axes, table, group, row, shots, style)
    axes.set_title(_text(group.name))
    axes.set_xlabel("shots (images per class)")
    axes.set_xticks(_positions(group.shots), list(map(str, group.shots)))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_row(
    axes: Axes,
    table: Table,
    group: Group,
    row: Row,
    shots: Sequence[int],
    style: dict[str, Any],
) -> None:
    """A curve with its interval band; a method without shots is a large mark at zero."""
    values = {k: table.cell(group, row, k).estimates.get(table.metric) for k in group.shots}
    numbers = {k: value for k, value in values.items() if value is not None}
    if not numbers:
        return
    if list(numbers) == [0]:
        axes.plot([0], [numbers[0].mean], **style | {"linestyle": "", "markersize": 6, "zorder": 3})
        return
    means, low, high = with_gaps(numbers, shots)
    xs = _positions(shots)
    axes.plot(xs, means, **style)
    axes.fill_between(xs, low, high, color=style["color"], alpha=_BAND, linewidth=0)


def _positions(shots: Sequence[int]) -> list[int]:
    """Positions on the axis of numbers of shots; all train images are at twice the largest.

    How many images per class that is differs between data sets, and is often far more.
    """
    most = max((number for number in shots if number != ALL_SHOTS), default=0)
    return [2 * most or 1 if number == ALL_SHOTS else number for number in shots]


def _has_number(table: Table, group: Group) -> bool:
    return any(
        table.metric in table.cell(group, row, shots).estimates
        for row in table.rows
        for shots in group.shots
    )


def _text(text: str) -> str:
    """Text without control characters; a zero-width space keeps a leading `_` in the legend."""
    shown = printable(text)
    return f"\u200b{shown}" if shown.startswith("_") else shown
