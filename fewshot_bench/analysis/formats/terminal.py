"""Documents for the terminal; `write` is the entry. Control characters are removed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, product, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from fewshot_bench.analysis.formats.document import (
    BEST,
    NAME_BREAKS,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Line,
    Section,
)
from fewshot_bench.analysis.formats.style import shade_colors
from fewshot_bench.analysis.signature import break_line
from fewshot_bench.utils.text import color_system, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

PLAIN_WIDTH = 120
# Blanks between columns, and between those whose heads are folded.
GAP, NARROW_GAP = 2, 1
_BREAKS = re.compile(r"(?<=[ ,=])|(?=\[)")
_STYLES = {BEST: "bold", SECOND: "underline"}


def write(shown: Document, *, styled: bool = False, width: int | None = None) -> str:
    """Sections with a blank line between them, notes, commands, the signature.

    styled: whether to include terminal escape codes. width: of the terminal, if it is known.
    """
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    usual = int(columns) if columns.isdigit() and int(columns) > 0 else PLAIN_WIDTH
    console = Console(
        file=io.StringIO(),
        width=width or usual,
        force_terminal=styled,
        # Write to the buffer even in a notebook.
        force_jupyter=False,
        color_system=color_system(),
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    if shown.caption:
        console.print(_text(shown.caption))
        console.print()
    for index, (heading, part) in enumerate(shown.headed):
        if index:
            console.print()
        if heading:
            console.print(_text(heading, "bold"))
            console.print(_text("═" * console.width))
        _print_document(console, part)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _print_document(console: Console, shown: Document) -> None:
    for index, section in enumerate(shown.sections):
        if index:
            console.print()
        _print_section(console, section)
    for note in shown.notes:
        console.print(_text(f"* {note}"))
    if shown.commands:
        console.print(_text("To run what is missing:"))
    # A command must be copied as one line.
    for command in shown.commands:
        console.print(_text(f"  {command}"), soft_wrap=True)
    for signature in shown.signature.splitlines():
        for line in break_line(printable(signature), console.width):
            console.print(_text(line, "dim"))


def _print_section(console: Console, section: Section) -> None:
    if section.title:
        console.print(_text(section.title, "bold"))
    for item in section.items:
        if item.mark:
            console.print(_hang(item.mark, item.text, item.style))
        else:
            console.print(_text(item.text), soft_wrap=item.step)
    grids = list(section.grids)
    if grids and section.items:
        console.print()
    for grid, following in zip_longest(grids, grids[1:]):
        _print_grid(console, grid, section.title)
        # Print a footer shared by consecutive grids once, after the last of them.
        if grid.footer and (following is None or following.footer != grid.footer):
            for line in grid.footer.splitlines():
                console.print(_text(line, "dim"))
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
    for index, block in enumerate(blocks):
        if index:
            console.print()
        width = _title_width(grid, console.width)
        if any(drawn.column.over for drawn in block):
            console.print(_text(_heads_above(block, width, gap)))
        console.print(_make_table(grid, block, width, gap))


def _heads_above(block: Sequence[_Drawn], width: int, gap: int) -> str:
    """The line of the heads over several columns, each in the middle of its own."""
    text = " " * width
    for over, columns in groupby(block, key=lambda drawn: drawn.column.over):
        room = sum(drawn.width + gap for drawn in columns)
        text += " " * gap + printable(over)[: room - gap].center(room - gap)
    return text


class _Drawn(NamedTuple):
    """A column as it is drawn: the lines of its head, a text per line, and the width of all."""

    column: Column
    head: Text
    texts: Sequence[Text]
    width: int


def _fit(grid: Grid, width: int) -> tuple[Grid, list[list[_Drawn]], int]:
    """The grid, or its narrow form, with columns that fit beside the titles, and the gap of these.

    Names of data sets are folded where that helps; if nothing does, there are several blocks.
    """
    has_names = any(NAME_BREAKS.search(c.head) for c in grid.columns if c.kind == "value")
    gaps = (GAP, NARROW_GAP) if has_names else (GAP,)
    for form, gap in product(filter(None, (grid, grid.narrow)), gaps):
        columns = list(_draw_columns(form, gap < GAP))
        parts = [[c for c in columns if (c.column.kind == "value") == own] for own in (True, False)]
        room = width - _title_width(form, width)
        if sum(column.width + gap for column in columns) <= room:
            return form, [parts[0] + parts[1]], gap
    return form, [block for part in parts for block in _split(part, room, gap)], gap


def _draw_columns(grid: Grid, folded: bool) -> Iterator[_Drawn]:
    """folded: whether heads of values are broken to the width of their numbers."""
    from rich.text import Text

    begins = grid.begins_group() if grid.groups else [True] * len(grid.lines)
    for index, column in enumerate(grid.columns):
        texts = [_entry(line.entries[index]) for line in grid.lines]
        widest = max((text.cell_len for text in texts), default=0)
        head = printable(column.head)
        if column.kind == "value" and folded:
            head = _in_lines(head, widest, NAME_BREAKS)
        lines = list(map(Text, head.split("\n")))
        if index == 0:
            pairs = zip(texts, begins, strict=True)
            texts = [text if is_first else Text("") for text, is_first in pairs]
        width = max(widest, *(line.cell_len for line in lines))
        yield _Drawn(column, Text("\n").join(lines), texts, width)


def _split(columns: Sequence[_Drawn], room: int, gap: int) -> list[list[_Drawn]]:
    """Blocks of columns that fit beside the titles; those under one head stay together."""
    blocks: list[list[_Drawn]] = []
    left = 0
    for over, own in groupby(columns, key=lambda drawn: drawn.column.over):
        columns = list(own)
        whole = over and sum(column.width + gap for column in columns) <= room
        for span in [columns] if whole else [[column] for column in columns]:
            width = sum(column.width + gap for column in span)
            if not blocks or width > left:
                blocks.append([])
                left = room
            blocks[-1] += span
            left -= width
    return blocks


def _title_width(grid: Grid, width: int) -> int:
    titles = (title for line in grid.lines for title in (_title(line), line.block, line.group))
    longest = max((_text(title).cell_len for title in titles), default=0)
    return min(max(longest, len(grid.first)), width // 3)


def _title(line: Line) -> str:
    return f"  {line.title}" if line.inside else line.title


def _make_table(grid: Grid, block: Sequence[_Drawn], width: int, gap: int) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, gap - 1)
    )
    # Heads stand at the bottom of their row.
    most = max((drawn.head.plain.count("\n") for drawn in block), default=0)
    table.add_column("\n" * most + printable(grid.first), overflow="fold", width=width)
    for column, head, _, _ in block:
        above = "\n" * (most - head.plain.count("\n"))
        justify: Any = "left" if column.kind == "text" else "right"
        table.add_column(Text(above) + head, justify=justify, overflow="fold")
    begins = grid.begins_group() if grid.groups else [True] * len(grid.lines)
    for index, line in enumerate(grid.lines):
        if line.block:
            table.add_section()
        for above, style in ((line.block, "bold"), (line.group, "italic")):
            if above:
                table.add_row(Text(_in_lines(printable(above), width), style))
        title = _in_lines(printable(_title(line)), width) if begins[index] else ""
        ends = grid.groups and begins[index + 1 : index + 2] == [True]
        shown = Text(title, "bold" if line.ours else "")
        table.add_row(shown, *(drawn.texts[index] for drawn in block), end_section=ends)
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
    for more in filter(None, (entry.around, entry.short)):
        text.append(f" {more}")
    return text
