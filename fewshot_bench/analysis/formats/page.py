"""Documents as HTML for notebooks, with the content of the terminal output; all text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from fewshot_bench.analysis.formats.document import BEST, SECOND, Document, Entry, Grid, Line
from fewshot_bench.analysis.formats.style import shade_colors
from fewshot_bench.utils.text import printable

_TAGS = {BEST: "b", SECOND: "u"}


def write(shown: Document) -> str:
    """Sections, notes, commands and the signature."""
    parts = (part for headed in shown.headed for part in _document(*headed))
    return f"<div>{''.join(parts)}</div>"


def _document(heading: str, shown: Document) -> Iterator[str]:
    if heading:
        yield f"<h3>{text(heading)}</h3>"
    for section in shown.sections:
        if section.title:
            yield f"<p><b>{text(section.title)}</b></p>"
        if section.items:
            yield _list(item.text for item in section.items)
        yield from map(_grid, section.grids)
    if shown.notes:
        yield _list(shown.notes)
    if shown.commands:
        commands = "\n".join(map(text, shown.commands))
        yield f"To run what is missing:<pre>{commands}</pre>"
    if shown.signature:
        yield f"<small><code>{text(shown.signature)}</code></small>"


def text(value: str) -> str:
    """HTML-escaped text without control characters."""
    return html.escape(printable(value))


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in texts)}</ul>"


def _grid(grid: Grid) -> str:
    heads = "".join(f"<th>{text(head)}</th>" for head in grid.heads)
    return (
        f"<p><b>{text(grid.name)}</b> {text(grid.caption)}</p>"
        f"<table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(map(_row, grid.lines))}</tbody></table>"
        f"<small>{text(grid.footer)}</small>"
    )


def _row(line: Line) -> str:
    cells = "".join(f"<td>{_entry(entry)}</td>" for entry in line.entries)
    return f"<tr><th>{text(line.title)}</th>{cells}</tr>"


def _entry(entry: Entry) -> str:
    tag = _TAGS.get(entry.rank)
    main = f"<{tag}>{text(entry.text)}</{tag}>" if tag else text(entry.text)
    if entry.shade is not None:
        paper, ink = shade_colors(entry.shade)
        main = f'<span style="background:{paper};color:{ink}">{main}</span>'
    return " ".join([main, *map(text, filter(None, (entry.around, entry.suffix)))])
