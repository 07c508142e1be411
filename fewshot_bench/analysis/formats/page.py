"""Documents as HTML for notebooks, with the content of the terminal output; all text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from fewshot_bench.analysis.formats.document import (
    BEST,
    SECOND,
    Document,
    Entry,
    Grid,
    Line,
    Section,
)
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
        yield from _section(section)
    if shown.notes:
        yield _listed(shown.notes)
    if shown.commands:
        yield f"To run what is missing:<pre>{text_lines(shown.commands)}</pre>"
    if shown.signature:
        yield f"<small><code>{text(shown.signature)}</code></small>"


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"<p><b>{text(section.title)}</b></p>"
    if section.items:
        yield _listed(item.text for item in section.items)
    for grid in section.grids:
        yield from _grid(grid)


def _listed(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(one)}</li>' for one in texts)}</ul>"


def text(value: str) -> str:
    """HTML-escaped text without control characters."""
    return html.escape(printable(value))


def text_lines(lines: Iterable[str]) -> str:
    """Several lines of escaped text."""
    return "\n".join(map(text, lines))


def _grid(grid: Grid) -> Iterator[str]:
    heads = "".join(f"<th>{text(head)}</th>" for head in grid.heads)
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
