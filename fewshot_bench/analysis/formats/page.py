"""Documents as HTML that stands alone, with its style and without a script; all text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Line,
)
from fewshot_bench.analysis.formats.style import shade_colors
from fewshot_bench.utils.text import printable

_CLASSES = {BEST: "best", SECOND: "second"}
# Rules as in print; colors follow the page around, light or dark.
_STYLE = """
.fsbench table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid;margin:.5em 0}
.fsbench caption{caption-side:top;text-align:left;padding-bottom:.3em}
.fsbench th,.fsbench td{padding:.15em .5em;text-align:right;font-variant-numeric:tabular-nums}
.fsbench th{font-weight:normal}
.fsbench td,.fsbench tbody th{white-space:nowrap}
.fsbench pre{overflow-x:auto}
.fsbench tr>:first-child,.fsbench td.text,.fsbench th.text{text-align:left}
.fsbench thead tr:last-child th,.fsbench th[colspan].over{border-bottom:1px solid}
.fsbench th.over{text-align:center}
.fsbench tr.block th{border-top:1px solid;font-weight:bold}
.fsbench tr.group th{font-style:italic}
.fsbench tr.inside th{padding-left:1.5em}
.fsbench tr.ours{background:rgba(128,128,128,.18)}
.fsbench .best{font-weight:bold}
.fsbench .second{text-decoration:underline}
.fsbench .around,.fsbench small{font-size:.85em;opacity:.8}
.fsbench code{overflow-wrap:anywhere}
"""


def write(shown: Document) -> str:
    """A `div` with the style, sections, notes, commands and the signature."""
    parts = [f"<p>{text(shown.caption)}</p>"] if shown.caption else []
    parts += [part for headed in shown.headed for part in _document(*headed)]
    body = "\n".join(parts)
    return f'<div class="fsbench">\n<style>{_STYLE}</style>\n{body}\n</div>\n'


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
    for line in shown.signature.splitlines():
        yield f"<p><small><code>{text(line)}</code></small></p>"


def text(value: str) -> str:
    """HTML-escaped text without control characters."""
    return html.escape(printable(value))


def _list(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(item)}</li>' for item in texts)}</ul>"


def _grid(grid: Grid) -> str:
    lines = "\n".join(row for line in grid.lines for row in _lines(grid, line))
    footers = "".join(f"<p><small>{text(line)}</small></p>" for line in grid.footer.splitlines())
    return (
        f"<table>\n<caption><b>{text(grid.name)}</b> {text(grid.caption)}</caption>\n"
        f"<thead>{''.join(_heads(grid))}</thead>\n<tbody>\n{lines}\n</tbody>\n</table>{footers}"
    )


def _heads(grid: Grid) -> Iterator[str]:
    if any(column.over for column in grid.columns):
        spans = (
            f'<th colspan="{len(columns)}"{_class("over" * bool(over))}>{text(over)}</th>'
            for over, columns in grid.spans()
        )
        yield f"<tr><th></th>{''.join(spans)}</tr>"
    heads = (f"<th{_class(_kind(column))}>{text(column.head)}</th>" for column in grid.columns)
    yield f"<tr><th>{text(grid.first)}</th>{''.join(heads)}</tr>"


def _kind(column: Column) -> str:
    return "text" if column.kind == "text" else ""


def _class(*names: str) -> str:
    """The attribute of these names but for empty ones."""
    own = " ".join(filter(None, names))
    return f' class="{own}"' if own else ""


def _lines(grid: Grid, line: Line) -> Iterator[str]:
    """The row of a line, after those with the titles of its block and group."""
    for title, name in ((line.block, "block"), (line.group, "group")):
        if title:
            width = len(grid.columns) + 1
            yield f'<tr class="{name}"><th colspan="{width}">{text(title)}</th></tr>'
    pairs = zip(grid.columns, line.entries, strict=True)
    cells = "".join(_entry(column, entry) for column, entry in pairs)
    names = _class("inside" * line.inside, "ours" * line.ours)
    yield f"<tr{names}><th>{text(line.title)}</th>{cells}</tr>"


def _entry(column: Column, entry: Entry) -> str:
    absent = "missing" if entry.text in (MISSING, INAPPLICABLE) else ""
    main = text(entry.text)
    if entry.rank in _CLASSES:
        main = f'<span class="{_CLASSES[entry.rank]}">{main}</span>'
    style = ""
    if entry.shade is not None:
        paper, ink = shade_colors(entry.shade)
        style = f' style="background:{paper};color:{ink}"'
    more = " ".join(map(text, filter(None, (entry.around, entry.suffix))))
    more = f' <span class="around">{more}</span>' if more else ""
    return f"<td{_class(_kind(column), absent)}{style}>{main}{more}</td>"
