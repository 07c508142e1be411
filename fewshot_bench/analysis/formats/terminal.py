"""Documents for the terminal; `write` is the entry. Control characters are removed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product, zip_longest
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.document import (
    BEST,
    SECOND,
    Document,
    Entry,
    Grid,
    Section,
)
from fewshot_bench.analysis.formats.style import shade_colors
from fewshot_bench.analysis.signature import break_line
from fewshot_bench.utils.text import color_system, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    Texts = list[Text]

PLAIN_WIDTH = 120
# Blanks between columns, and between those whose heads are folded.
GAP, NARROW_GAP = 2, 1
_BREAKS = re.compile(r"(?<=[ ,=])|(?=\[)")
# Breaks of the names of data sets, but not of `16-shot`.
_NAMES = re.compile(r"(?<=[a-z]{3}[_-])(?=\w{3})")
_STYLES = {BEST: "bold", SECOND: "underline"}


def write(shown: Document, *, styled: bool = False, width: int | None = None) -> str:
    """Sections with a blank line between them, notes, commands, the signature."""

    def draw(console: Console) -> None:
        for index, (heading, part) in enumerate(shown.headed):
            if index:
                console.print()
            if heading:
                console.print(_text(heading, "bold"))
                console.print(_text("═" * console.width))
            _print_document(console, part)

    return print_text(draw, styled=styled, width=width)


def _print_document(console: Console, shown: Document) -> None:
    for index, section in enumerate(shown.sections):
        if index:
            console.print()
        _print_section(console, section)
    _print_closing(console, shown.notes, shown.commands)
    for line in break_line(printable(shown.signature), console.width):
        console.print(_text(line, "dim"))


def print_text(
    draw: Callable[[Console], None],
    *,
    styled: bool = False,
    width: int | None = None,
    truecolor: bool = False,
) -> str:
    """The text that `draw` prints on a console that interprets no markup.

    styled: whether to include terminal escape codes. truecolor: use 24-bit colors if styled.
    """
    from rich.console import Console

    buffer = io.StringIO()
    colors: Any = color_system()
    if truecolor:
        colors = "truecolor" if styled and colors else None
    console = Console(
        file=buffer,
        width=width or _width(),
        force_terminal=styled,
        # Write to the buffer even in a notebook.
        force_jupyter=False,
        color_system=colors,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    draw(console)
    lines = buffer.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _print_section(console: Console, section: Section) -> None:
    if section.title:
        console.print(_text(section.title, "bold"))
    for item in section.items:
        if item.mark:
            console.print(_hang(item.mark, item.text, item.style))
        else:
            # A step holds a command, which must be copied as one line.
            console.print(_text(item.text), soft_wrap=item.step)
    listed = list(section.grids)
    if listed and section.items:
        console.print()
    for grid, following in zip_longest(listed, listed[1:]):
        _print_grid(console, grid, section.title)
        # Print a footer shared by consecutive grids once, after the last of them.
        if grid.footer and (following is None or following.footer != grid.footer):
            console.print(_text(grid.footer, "dim"))
        if grid.footer:
            console.print()
    if section.small:
        console.print(_text(section.small, "dim"))


def _hang(mark: str, text: str, style: str) -> RichTable:
    """A sentence with a hanging indent behind its mark."""
    from rich.table import Table as RichTable

    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(_text(mark, style), _text(text))
    return grid


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() and int(columns) > 0 else PLAIN_WIDTH


def _print_grid(console: Console, grid: Grid, title: str) -> None:
    from rich.text import Text

    if grid.prose:
        for line in grid.lines:
            state, *texts = line.entries
            style = {BEST: "red", SECOND: "yellow"}.get(state.rank, "green")
            mark = f"{line.title:>2} {state.short:<2}"
            console.print(_hang(mark, ": ".join(entry.text for entry in texts), style))
        return
    grid, blocks, gap = _fit(grid, console.width)
    if grid.name != title:
        console.print(Text.assemble((printable(grid.name), "bold"), f"  {printable(grid.caption)}"))
    for index, columns in enumerate(blocks):
        if index:
            console.print()
        console.print(_rich_table(grid, columns, _title_width(grid, console.width), gap))


def _fit(grid: Grid, width: int) -> tuple[Grid, list[list[Texts]], int]:
    """The grid, or its narrow form, with columns that fit beside the titles, and the gap of these.

    Names of data sets are folded where that helps; if nothing does, there are several blocks.
    """
    has_names = any(_NAMES.search(c.head) for c in grid.columns if c.kind == "value")
    gaps = (GAP, NARROW_GAP) if has_names else (GAP,)
    for form, gap in product(filter(None, (grid, grid.narrow)), gaps):
        parts = _columns(form, gap < GAP)
        room = width - _title_width(form, width)
        if _column_widths(parts[0] + parts[1], gap) <= room:
            return form, [parts[0] + parts[1]], gap
    return form, list(_blocks(parts, room, gap)), gap


def _columns(grid: Grid, folded: bool) -> tuple[list[Texts], list[Texts]]:
    """The columns of values and those beside them, each a head and one text per line.

    folded: whether heads of values are broken to the width of their numbers.
    """
    from rich.text import Text

    values: list[Texts] = []
    sides: list[Texts] = []
    begins = grid.begins_group() if grid.groups else []
    for index, column in enumerate(grid.columns):
        texts = [
            Text(printable(column.head)),
            *(_entry(line.entries[index]) for line in grid.lines),
        ]
        if column.kind == "value" and folded:
            widest = max((text.cell_len for text in texts[1:]), default=0)
            texts[0] = Text(_in_lines(texts[0].plain, widest, _NAMES))
        for number, is_first in enumerate(begins if index == 0 else (), 1):
            texts[number] = texts[number] if is_first else Text("")
        (values if column.kind == "value" else sides).append(texts)
    return values, sides


def _blocks(parts: Sequence[list[Texts]], room: int, gap: int) -> Iterator[list[Texts]]:
    """Blocks of columns that fit beside the titles, separate ones for values and the others."""
    for part in parts:
        block: list[Texts] = []
        for column in part:
            if block and _column_widths([*block, column], gap) > room:
                yield block
                block = []
            block.append(column)
        if block:
            yield block


def _column_widths(columns: Sequence[Texts], gap: int) -> int:
    from rich.cells import cell_len

    lines = ([line for text in column for line in text.plain.split("\n")] for column in columns)
    return sum(max(map(cell_len, own)) + gap for own in lines)


def _title_width(grid: Grid, width: int) -> int:
    from rich.cells import cell_len

    longest = max((cell_len(printable(line.title)) for line in grid.lines), default=0)
    return min(max(longest, len(grid.first)), width // 3)


def _rich_table(grid: Grid, columns: Sequence[Texts], width: int, gap: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, gap - 1)
    )
    most = max((column[0].plain.count("\n") for column in columns), default=0)
    table.add_column("\n" * most + printable(grid.first), overflow="fold", width=width)
    texts = {column.head for column in grid.columns if column.kind == "text"}
    for column in columns:
        justify: Any = "left" if column[0].plain in texts else "right"
        head = Text("\n" * (most - column[0].plain.count("\n"))) + column[0]
        table.add_column(head, justify=justify, overflow="fold")
    begins = grid.begins_group() if grid.groups else [True] * len(grid.lines)
    for index, line in enumerate(grid.lines):
        cells = [column[index + 1] for column in columns]
        title = _in_lines(printable(line.title), width) if begins[index] else ""
        ends = grid.groups and begins[index + 1 : index + 2] == [True]
        table.add_row(Text(title), *cells, end_section=ends)
    return table


def _in_lines(title: str, width: int, breaks: re.Pattern[str] = _BREAKS) -> str:
    """A title broken after blanks, commas and equal signs, and before square brackets."""
    from rich.cells import cell_len

    lines = [""]
    for part in breaks.split(title):
        if lines[-1] and cell_len(f"{lines[-1]}{part}".rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _entry(entry: Entry) -> Text:
    from rich.text import Text

    style = _STYLES.get(entry.rank, "")
    if entry.shade is not None:
        paper, ink = shade_colors(entry.shade)
        style = f"{style} {ink} on {paper}"
    text = Text.assemble((printable(entry.text), style))
    if entry.around:
        text.append(f" {entry.around}")
    if entry.short:
        text.append(f" {entry.short}")
    return text


def _print_closing(console: Console, notes: Sequence[str], commands: Sequence[str]) -> None:
    for note in notes:
        console.print(_text(f"* {note}"))
    if commands:
        console.print(_text("To run what is missing:"))
        for command in commands:
            console.print(_text(f"  {command}"), soft_wrap=True)
