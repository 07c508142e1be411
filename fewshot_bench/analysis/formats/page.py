"""The table as HTML for a notebook: what the terminal shows, names from records escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from fewshot_bench.analysis.formats.grid import BEST, SECOND, Entry, Grid, Line
from fewshot_bench.analysis.formats.terminal import COMMANDS
from fewshot_bench.analysis.table.layout import closing, grids
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.utils.text import printable

_TAGS = {BEST: "b", SECOND: "u"}


def render(table: Table) -> str:
    """Grids, notes, commands and the signature as HTML."""
    notes, commands = closing(table, COMMANDS)
    return write(grids(table, curves=True), notes, commands, table.signatures.get("", ""))


def write(
    found: Iterable[Grid],
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    signature: str = "",
) -> str:
    """Grids, notes, commands and a signature, wherever they are from."""
    parts = [part for grid in found for part in _grid(grid)]
    if notes:
        parts.append(f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes)}</ul>")
    if commands:
        parts.append(f"To run what is missing:<pre>{text_lines(commands)}</pre>")
    if signature:
        parts.append(f"<small><code>{text(signature)}</code></small>")
    return f"<div>{''.join(parts)}</div>"


def text(value: str) -> str:
    """Text without markup or control characters."""
    return html.escape(printable(value))


def text_lines(lines: Iterable[str]) -> str:
    """Several lines of it."""
    return "\n".join(map(text, lines))


def _grid(grid: Grid) -> Iterator[str]:
    heads = "".join(f"<th>{text(head)}</th>" for head in (grid.first, *grid.shots, *grid.costs))
    rows = "".join(map(_row, grid.lines))
    yield f"<p><b>{text(grid.name)}</b> {text(grid.caption)}</p>"
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    yield f"<small>{text(grid.footer)}</small>"


def _row(line: Line) -> str:
    cells = [*map(_entry, line.entries), *map(text, line.costs)]
    return f"<tr><th>{text(line.title)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _entry(entry: Entry) -> str:
    tag = _TAGS.get(entry.rank)
    mean = f"<{tag}>{text(entry.mean)}</{tag}>" if tag else text(entry.mean)
    return " ".join([mean, *map(text, filter(None, (entry.around, entry.suffix)))])
