"""The table for the terminal."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from fewshot_bench.analysis.formats.grid import BEST, SECOND, Entry, Grid
from fewshot_bench.analysis.signature import broken
from fewshot_bench.analysis.table.layout import closing, grids
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.utils.text import color_system, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    Column = list[Text]

COMMANDS = 8
PLAIN_WIDTH = 120
GAP = 2
_BREAKS = re.compile(r"(?<=[ ,=])|(?=\[)")
_STYLES = {BEST: "bold", SECOND: "underline"}


def render(table: Table, *, styled: bool = False, width: int | None = None) -> str:
    """The grids, notes and commands as text; `styled` adds the escape codes of a terminal."""
    notes, commands = closing(table, COMMANDS)
    line = table.signatures.get("", "")
    return write(grids(table, curves=True), notes, commands, line, styled=styled, width=width)


def write(
    found: Iterable[Grid],
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    signature: str = "",
    *,
    styled: bool = False,
    width: int | None = None,
) -> str:
    """Grids, notes, commands and a signature, wherever they are from."""
    from rich.console import Console
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width or _width(),
        force_terminal=styled,
        no_color=True,
        color_system=color_system(),
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    listed = list(found)
    for grid, following in zip_longest(listed, listed[1:]):
        _print_grid(console, grid)
        # What holds for several tables in a row is said once, after the last of them.
        if following is None or following.footer != grid.footer:
            console.print(Text(clean(grid.footer), style="dim"))
        console.print()
    _print_closing(console, notes, commands)
    for line in broken(clean(signature), console.width):
        console.print(Text(line, style="dim"))
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else PLAIN_WIDTH


def _print_grid(console: Console, grid: Grid) -> None:
    from rich.text import Text

    console.print(Text.assemble((clean(grid.name), "bold"), f"  {clean(grid.caption)}"))
    for index, columns in enumerate(_blocks(grid, console.width)):
        if index:
            console.print()
        console.print(_rich_table(grid, columns, _title_width(grid, console.width)))


def _columns(grid: Grid) -> tuple[list[Column], list[Column]]:
    """The columns of numbers and those of costs: a head, then one text per line."""
    from rich.text import Text

    shots = [
        [Text(clean(head)), *(_entry(line.entries[index]) for line in grid.lines)]
        for index, head in enumerate(grid.shots)
    ]
    costs = [
        [Text(clean(text)) for text in (head, *(line.costs[index] for line in grid.lines))]
        for index, head in enumerate(grid.costs)
    ]
    return shots, costs


def _blocks(grid: Grid, width: int) -> Iterator[list[Column]]:
    """Columns that fit beside the methods: all in one block, or costs (and shots) apart."""
    shots, costs = _columns(grid)
    room = width - _title_width(grid, width)
    if sum(map(_column_width, shots + costs)) <= room:
        yield shots + costs
        return
    for part in (shots, costs):
        block: list[Column] = []
        for column in part:
            if block and sum(map(_column_width, [*block, column])) > room:
                yield block
                block = []
            block.append(column)
        if block:
            yield block


def _column_width(column: Column) -> int:
    return max(text.cell_len for text in column) + GAP


def _title_width(grid: Grid, width: int) -> int:
    from rich.cells import cell_len

    longest = max((cell_len(clean(line.title)) for line in grid.lines), default=0)
    return min(max(longest, len(grid.first)), width // 3)


def _rich_table(grid: Grid, columns: Sequence[Column], width: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, GAP - 1)
    )
    table.add_column(clean(grid.first), overflow="fold", width=width)
    for column in columns:
        table.add_column(column[0], justify="right", overflow="fold")
    for index, line in enumerate(grid.lines):
        cells = [column[index + 1] for column in columns]
        table.add_row(Text(_in_lines(clean(line.title), width)), *cells)
    return table


def _in_lines(title: str, width: int) -> str:
    """A title broken after blanks, commas and equal signs, and before square brackets."""
    from rich.cells import cell_len

    lines = [""]
    for part in _BREAKS.split(title):
        if lines[-1] and cell_len(f"{lines[-1]}{part}".rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _entry(entry: Entry) -> Text:
    from rich.text import Text

    text = Text.assemble((entry.mean, _STYLES.get(entry.rank, "")))
    if entry.around:
        text.append(f" {entry.around}")
    if entry.short:
        text.append(f" {entry.short}")
    return text


def _print_closing(console: Console, notes: Sequence[str], commands: Sequence[str]) -> None:
    from rich.text import Text

    for note in notes:
        console.print(Text(f"* {clean(note)}"))
    if commands:
        console.print(Text("To run what is missing:"))
        for command in commands:
            console.print(Text(f"  {clean(command)}"), soft_wrap=True)


def clean(text: str) -> str:
    """Text without control characters, so that a name cannot steer the terminal."""
    return printable(text)
