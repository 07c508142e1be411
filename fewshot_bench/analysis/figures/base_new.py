"""Bars of base classes, new classes and their harmonic mean: a panel per data set.

The average stands first, as in table 1 of CoCoOp (Zhou et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.figures.drawing import (
    Drawing,
    Panels,
    Spot,
    color_of,
    legend_lines,
    looks_of,
    range_of,
    refuse_nothing,
    row_of,
    spot_of,
    text,
)
from fewshot_bench.analysis.figures.style import Style
from fewshot_bench.analysis.table.table import Cell, Group, Row, Scope, Table
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCOPES: Sequence[Scope] = ("base", "new", "H")
# Width of the bars of a scope, which are 1 apart.
_BARS = 0.8
_HATCHES = ("", "////", "....", "xxxx")
Halves = Mapping[Scope, Group]


def draw(table: Table, style: Style) -> Drawing:
    """The figure; UsageError without base and new classes, and for several numbers of shots."""
    panels = _panels(table)
    if not panels:
        raise UsageError(
            "no record here is of base or new classes: fsbench run --classes base,new ... makes "
            "them"
        )
    shots = shots_of(table, [group for halves in panels for group in halves.values()])
    cells = [
        cell_at(table, group, row, shots)
        for halves in panels
        for row in table.rows
        for group in halves.values()
    ]
    refuse_nothing(table, [cell for cell in cells if table.metric in cell.estimates])
    rows = [row_of(table, cell, style.spread, scope=cell.group.scope) for cell in cells]

    def figure() -> Figure:
        return _figure(table, style, panels, shots)

    return Drawing("base-new", style, table, rows, figure, len(panels))


def shots_of(table: Table, groups: Sequence[Group]) -> int:
    """The number of shots of these groups, 0 if no method has any; UsageError for several."""
    several = sorted({shots for group in groups for shots in group.shots} - {0})
    if len(several) > 1:
        listed = ", ".join(map(str, several))
        raise UsageError(
            f"this figure is of one number of shots, and there are {listed}: choose one, as with "
            f"--shots {several[-1]}"
        )
    return several[0] if several else 0


def cell_at(table: Table, group: Group, row: Row, shots: int) -> Cell:
    """The cell of a row at this number of shots; without a support set, that of no shots."""
    cell = table.cell(group, row, shots) if shots in group.shots else None
    if (cell is None or not cell.expected) and 0 in group.shots:
        return table.cell(group, row, 0)
    return cell or Cell(group, row, shots, "missing")


def _panels(table: Table) -> list[Halves]:
    """The groups of each panel by scope: averages over several data sets, then data sets."""
    parts: dict[tuple[bool, str], dict[Scope, Group]] = {}
    for group in table.groups:
        if group.scope in SCOPES:
            parts.setdefault((not group.average, group.dataset), {})[group.scope] = group
    averages = [key for key in parts if not key[0]]
    others = [key for key in parts if key[0]]
    ordered = [*(averages if len(others) > 1 else []), *others]
    return [
        {scope: parts[key][scope] for scope in SCOPES if scope in parts[key]} for key in ordered
    ]


def _figure(table: Table, style: Style, parts: Sequence[Halves], shots: int) -> Figure:
    labels = [row.title for row in table.rows]
    panels = Panels(style, len(parts), legend=legend_lines(style, labels))
    entries: dict[str, Any] = {}
    styles, width = _styles(table), _BARS / len(table.rows)
    ranges = []
    for axes, halves in zip(panels.axes, parts, strict=True):
        numbers = []
        for index, row in enumerate(table.rows):
            for x, group in enumerate(halves.values()):
                cell = cell_at(table, group, row, shots)
                if table.metric in cell.estimates:
                    spot = spot_of(cell, table.metric, style.spread)
                    numbers.append(spot)
                    at = x - _BARS / 2 + (index + 0.5) * width
                    entries[row.title] = _draw_bar(axes, styles[index], at, width, spot)
        ranges.append(range_of(numbers, table.main))
        axes.set_title(text(_title(table, halves)))
        axes.set_xticks(range(len(halves)), list(map(str, halves)))
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5, len(halves) - 0.5)
        axes.grid(axis="y")
    panels.limit(ranges, style.axes or "zero")
    for axes in panels.left:
        axes.set_ylabel(table.main.quantity)
    ours = [row.title for row in table.rows if row.ours]
    panels.write_legend({label: entries[label] for label in labels if label in entries}, ours)
    return panels.figure


def _title(table: Table, halves: Halves) -> str:
    """The name of a data set or average, without that of a part of its classes."""
    group = next(iter(halves.values()))
    return group.name.removesuffix(f" ({group.scope})")


def _styles(table: Table) -> list[dict[str, Any]]:
    """Arguments of matplotlib for the bars of each row."""
    look_by_label = looks_of(table)
    colors = [color_of(look_by_label[row.label]) for row in table.rows]
    styles = []
    for index, (row, color) in enumerate(zip(table.rows, colors, strict=True)):
        # Bars have no markers: those of one color differ by their hatches.
        hatch = _HATCHES[colors[:index].count(color) % len(_HATCHES)]
        drawn: dict[str, Any] = {"color": color, "hatch": hatch, "zorder": 2}
        drawn |= {"edgecolor": "black" if row.ours else "white"} if hatch or row.ours else {}
        styles.append(drawn | {"linewidth": 0.8 if row.ours else 0.0})
    return styles


def _draw_bar(axes: Axes, drawn: dict[str, Any], at: float, width: float, spot: Spot) -> Any:
    """A bar with its spread; returns the handle of its method."""
    mean, low, high = spot
    (bar,) = axes.bar(at, mean, width=0.92 * width, **drawn)
    if high > low:
        around = [[mean - low], [high - mean]]
        axes.errorbar(at, mean, yerr=around, fmt="none", ecolor="#333333", elinewidth=0.6)
    return bar
