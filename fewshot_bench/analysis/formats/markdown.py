"""Documents as Markdown (GitHub's dialect); `write` is the entry, all text is escaped."""

from __future__ import annotations

import re
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

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def write(shown: Document) -> str:
    """Headings, bullets, tables, then notes and commands."""
    caption = [escape(shown.caption)] if shown.caption else []
    parts = (part for headed in shown.headed for part in _document(*headed))
    return "\n\n".join([*caption, *parts]) + "\n"


def _document(heading: str, shown: Document) -> Iterator[str]:
    if heading:
        yield f"## {escape(heading)}"
    for section in shown.sections:
        yield from _section(section)
    if shown.notes:
        yield _bullets(shown.notes)
    if shown.commands:
        yield "To run what is missing:\n\n" + _code(shown.commands)
    if shown.signature and shown.data:
        yield f"`{shown.signature}`"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, in a table cell too."""
    return _SPECIAL.sub(r"\\\1", printable(" ".join(text.split())))


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"### {escape(section.title)}"
    if section.items:
        yield _bullets(item.text for item in section.items)
    for grid in section.grids:
        yield from _grid(grid, section.title)
    if section.small:
        yield escape(section.small)


def _bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {escape(text)}" for text in texts)


def _grid(grid: Grid, title: str) -> Iterator[str]:
    if grid.name and grid.name != title:
        yield f"### {escape(grid.name)}"
    if grid.caption:
        yield escape(grid.caption)
    kinds = ("text", *(column.kind for column in grid.columns))
    aligned = ["---" if grid.prose or kind == "text" else "---:" for kind in kinds]
    heads = (" ".join(filter(None, (column.over, column.head))) for column in grid.columns)
    lines = [_row(map(escape, (grid.first, *heads))), _row(aligned)]
    lines += [row for line in grid.lines for row in _lines(line)]
    yield "\n".join(lines)
    yield from map(escape, grid.footer.splitlines())
    if grid.signature:
        yield _code(grid.signature.splitlines(), "text")


def _lines(line: Line) -> Iterator[str]:
    """The row of a line, after those with the titles of its block and group."""
    blank = [""] * len(line.entries)
    if line.block:
        yield _row([f"**{escape(line.block)}**", *blank])
    if line.group:
        yield _row([f"*{escape(line.group)}*", *blank])
    title = f"**{escape(line.title)}**" if line.ours else escape(line.title)
    yield _row([title, *map(_entry, line.entries)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _entry(entry: Entry) -> str:
    text = escape(entry.text)
    if entry.rank:
        text = {BEST: f"**{text}**", SECOND: f"<u>{text}</u>"}[entry.rank]
    around = f" {entry.around.replace('±', '± ')}" if entry.around else ""
    return f"{text}{around}{' ' if entry.suffix else ''}{entry.suffix}"


def _code(lines: Iterable[str], language: str = "sh") -> str:
    text = "\n".join(map(printable, lines))
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
