"""A sweep in the terminal (colored blocks with numbers, or a curve) and as tidy rows.

`render` writes the terminal text, `document` holds the rows for CSV and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.document import Document
from fewshot_bench.analysis.formats.terminal import print_text
from fewshot_bench.analysis.sweep.build import Cell, Panel, Sweep, scale_of
from fewshot_bench.analysis.table.axes import marks_of_seeds
from fewshot_bench.utils.text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WORDS = {"missing": "—", "failed": "failed", "inapplicable": "n/a"}
# Maximum width of the axis of a curve, in characters.
AXIS = 40
# Width limits of a column of a map, in characters.
_NARROWEST, _WIDEST = 9, 24
# Points of matplotlib's viridis, which stays in order for color-blind readers and in gray.
_SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def render(sweep: Sweep, *, styled: bool = False, width: int = 120) -> str:
    """All panels, notes and the signature; `styled` adds the colors of a terminal."""
    return print_text(lambda c: _print(c, sweep), styled=styled, width=width, truecolor=True)


def _print(console: Console, sweep: Sweep) -> None:
    from rich.text import Text

    for panels in sweep.blocks:
        low_high = scale_of(panels)
        scale = f", {low_high[0]:.2f} to {low_high[1]:.2f}" if low_high else ""
        head = f"{sweep.title} on {panels[0].group}, {panels[0].shots}-shot"
        caption = f"  {sweep.metric.title}{scale}"
        console.print(Text.assemble((printable(head), "bold"), printable(caption)))
        for panel in panels:
            _print_panel(console, sweep, panel, low_high)
        console.print()
    for note in sweep.notes:
        console.print(Text(f"* {printable(note)}"))
    console.print(Text(printable(sweep.conditions_text), style="dim"))
    console.print(Text(sweep.signature, style="dim"), soft_wrap=True)


def _print_panel(
    console: Console, sweep: Sweep, panel: Panel, scale: tuple[float, float] | None
) -> None:
    from rich.text import Text

    if panel.title:
        console.print(Text(printable(panel.title), style="italic"))
    if sweep.rows is None:
        console.print(_curve(sweep, panel, scale, console.width))
        return
    for columns in _parts(sweep, console.width):
        console.print(_map(sweep, panel, scale, columns))


def _parts(sweep: Sweep, width: int) -> Iterator[list[int]]:
    """Split the columns of a map into parts that fit the width: cropping would alter numbers."""
    part: list[int] = []
    left = width - _label(sweep)
    for j in range(len(sweep.columns.values)):
        needed = _width(sweep, j) + 1
        if part and needed > left:
            yield part
            part, left = [], width - _label(sweep)
        part.append(j)
        left -= needed
    yield part


def _label(sweep: Sweep) -> int:
    """Width of the column with the rows' values, in characters."""
    assert sweep.rows is not None
    texts = [_head(sweep), *(printable(str(value)) for value in sweep.rows.values)]
    return min(max(map(len, texts)), _WIDEST)


def _head(sweep: Sweep) -> str:
    assert sweep.rows is not None
    return printable(f"{sweep.rows.name} \\ {sweep.columns.name}")


def _width(sweep: Sweep, column: int) -> int:
    """Width of a column in characters: that of a number, or more for a long option value."""
    return min(max(_NARROWEST, len(printable(str(sweep.columns.values[column])))), _WIDEST)


def _map(
    sweep: Sweep, panel: Panel, scale: tuple[float, float] | None, columns: list[int]
) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    assert sweep.rows is not None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column(Text(_head(sweep)), width=_label(sweep), overflow="fold")
    for j in columns:
        title = Text(printable(str(sweep.columns.values[j])))
        table.add_column(title, justify="center", width=_width(sweep, j), overflow="fold")
    for i, row in enumerate(sweep.rows.values):
        cells = [panel.cells[i, j] for j in columns]
        blocks = [
            Text(
                shown(cell).center(_width(sweep, j)), style=_style(cell, scale, panel.is_best(cell))
            )
            for cell, j in zip(cells, columns, strict=True)
        ]
        table.add_row(Text(printable(str(row))), *blocks)
    return table


def _curve(
    sweep: Sweep, panel: Panel, scale: tuple[float, float] | None, width: int
) -> RenderableType:
    """A point per value on an axis from minimum to maximum, which are printed below it."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for overflow in ("fold", "ignore", "ignore", "crop"):
        grid.add_column(overflow=overflow, no_wrap=overflow != "fold")
    cells = [panel.cells[0, j] for j in range(len(sweep.columns.values))]
    around = [cell.estimate.around() if cell.estimate else "" for cell in cells]
    names = [printable(f"{sweep.columns.name} {value}") for value in sweep.columns.values]
    # Long names are folded, and the axis shrinks so that numbers fit.
    taken = min(max(map(len, names)), 20) + max(map(len, around)) + max(map(len, map(shown, cells)))
    length = min(AXIS, max(width - taken - 6, 12))
    for name, cell, interval in zip(names, cells, around, strict=True):
        style = "bold" if panel.is_best(cell) else ""
        point = Text(_point(cell, scale, length))
        grid.add_row(Text(name), Text(shown(cell), style=style), interval, point)
    if scale:
        low, high = (f"{end:.2f}" for end in scale)
        grid.add_row("", "", "", Text(f"{low}{high:>{length - len(low)}}", style="dim"))
    return grid


def _point(cell: Cell, scale: tuple[float, float] | None, length: int) -> str:
    if cell.estimate is None or scale is None:
        return ""
    low, high = scale
    place = (cell.estimate.mean - low) / (high - low) if high > low else 0.5
    before = round(place * (length - 1))
    return f"{'─' * before}●{'─' * (length - 1 - before)}"


def shown(cell: Cell) -> str:
    """The mean with two decimals, with `*` if over fewer seeds; else a word for the status."""
    if cell.estimate is None:
        return WORDS[cell.status]
    return f"{cell.estimate.mean:.2f}{'*' if cell.status == 'partial' else ''}"


def _style(cell: Cell, scale: tuple[float, float] | None, best: bool) -> str:
    if cell.estimate is None or scale is None:
        return "dim"
    low, high = scale
    place = (cell.estimate.mean - low) / (high - low) if high > low else 1.0
    red, green, blue = color(place)
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"
    bold = "bold underline " if best else ""
    return f"{bold}{ink} on rgb({red},{green},{blue})"


def color(place: float) -> tuple[int, int, int]:
    """The RGB color of the scale at a position from 0 to 1."""
    position = min(max(place, 0.0), 1.0) * (len(_SCALE) - 1)
    index = min(int(position), len(_SCALE) - 2)
    share = position - index
    pairs = zip(_SCALE[index], _SCALE[index + 1], strict=True)
    red, green, blue = (round(a + share * (b - a)) for a, b in pairs)
    return red, green, blue


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per cell; None without a number. Option NAME has the column `option_NAME`."""
    found = []
    for panel in sweep.panels:
        for cell in panel.cells.values():
            value = cell.estimate
            found.append(
                {
                    "dataset": panel.group,
                    "method": sweep.title,
                    "shots": panel.shots,
                    **{f"option_{name}": chosen for name, chosen in cell.options.items()},
                    "metric": sweep.metric.name,
                    "mean": None if value is None else round(value.mean, 6),
                    "ci95": None if value is None or value.half is None else round(value.half, 6),
                    "min": None if value is None else round(value.least, 6),
                    "max": None if value is None else round(value.most, 6),
                    "n_seeds": 0 if value is None else value.n,
                    "status": cell.status,
                    "missing": list(cell.missing),
                    "marks": [*sweep.marks, *marks_of_seeds(cell.seeds)],
                }
            )
    return found


def document(sweep: Sweep) -> Document:
    """The rows for CSV, and with `meta` for JSON."""
    found = rows(sweep)
    meta = {
        "method": sweep.title,
        "metric": sweep.metric.name,
        "columns": sweep.columns.name,
        "rows": sweep.rows.name if sweep.rows else None,
        "panels": [axis.name for axis in sweep.others],
        "defaults": {
            axis.name: axis.default
            for axis in (sweep.columns, *([sweep.rows] if sweep.rows else []), *sweep.others)
        },
        "conditions": dict(sweep.conditions),
        "notes": list(sweep.notes),
        "signature": sweep.signature,
    }
    return Document(rows=found, data={"meta": meta, "rows": found})
