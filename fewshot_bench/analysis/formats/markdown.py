"""The table as Markdown (GitHub's dialect)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fewshot_bench.analysis.formats.grid import BEST, SECOND, Entry, Grid
from fewshot_bench.analysis.table.layout import closing, grids
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.utils.text import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def render(table: Table) -> str:
    """One section per grid, then notes and commands; best bold, second underlined."""
    return write(grids(table), *closing(table))


def write(found: Iterable[Grid], notes: Sequence[str] = (), commands: Sequence[str] = ()) -> str:
    """Grids, notes and commands, wherever they are from."""
    parts = [_grid(grid) for grid in found]
    if notes:
        parts.append("\n".join(f"- {escape(note)}" for note in notes))
    if commands:
        parts.append("To run what is missing:\n\n" + _code(commands))
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table cell too."""
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())))


def _grid(grid: Grid) -> str:
    heads = [escape(grid.first), *map(escape, grid.shots), *map(escape, grid.costs)]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for line in grid.lines:
        cells = [escape(line.title), *map(_entry, line.entries), *map(escape, line.costs)]
        lines.append(_row(cells))
    rows = "\n".join(lines)
    parts = [f"### {escape(grid.name)}", escape(grid.caption), rows, escape(grid.footer)]
    if grid.signature:
        parts.append(_code([grid.signature], "text"))
    return "\n\n".join(parts)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _entry(entry: Entry) -> str:
    mean = entry.mean
    if entry.rank == BEST:
        mean = f"**{mean}**"
    elif entry.rank == SECOND:
        mean = f"<u>{mean}</u>"
    around = f" {entry.around.replace('±', '± ')}" if entry.around else ""
    return f"{mean}{around}{' ' if entry.suffix else ''}{entry.suffix}"


def _code(lines: Iterable[str], language: str = "sh") -> str:
    text = "\n".join(map(printable, lines))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
