"""Documents as LaTeX with booktabs; `write` is the entry, all text is escaped."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

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
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import printable

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "—": "---",
    "–": "--",
    "±": r"$\pm$",
    "→": r"$\rightarrow$",
    "[": "{[}",
    "]": "{]}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}

# The first line of every document, and packages that only some need.
PACKAGES = "% needs \\usepackage{booktabs}, \\usepackage{textcomp} and \\usepackage[T1]{fontenc}"
_MORE = {
    r"\begin{longtable}": r"\usepackage{longtable}",
    r"\rowcolor": r"\usepackage[table]{xcolor}",
    r"\resizebox": r"\usepackage{graphicx}",
}
_DASHES = frozenset("-–—")
# Label names that LaTeX accepts without escapes.
_LABEL = re.compile(r"[A-Za-z0-9:._/+-]+")
# Characters that fit into one column of a two-column page, and into both, in small print.
_NARROW, _WIDE = 46, 100
# A table is shrunk to the page until it is so many times as wide, then it is in parts.
_SHRUNK = 1.4
# Lines that fit on a page.
_HIGH = 66
# LaTeX gives up when more than 52 floats wait for a page.
_HELD = 40
# A signature may be broken after these characters, and before an escape %XX.
_BREAKS = re.compile(r"(?<=[|,;:/=])|(?<=\\textbar\{\})|(?=\\%)")


def write(shown: Document) -> str:
    """Grids as floats; notes as small print, or of a quiet document as comments.

    If there are several floats, the name of each is appended to the caption and label of the
    document. A label that occurs again, since names may differ in characters that no label has,
    gets a number.
    """
    parts: list[str] = []
    headed = [
        (
            heading,
            part,
            [[_add_title(p, part) for g in s.grids for p in _pages(g)] for s in part.sections],
        )
        for heading, part in shown.headed
    ]
    count = sum(len(grids) for *_, sections in headed for grids in sections)
    name = partial(_name, shown, count, Counter())
    for number, (heading, part, sections) in enumerate(headed):
        say = _comment if part.quiet else _small
        parts += [r"\clearpage"] if number and count > _HELD else []
        parts += [say(heading)] if heading else []
        closing = [
            *(say(f"note: {note}" if part.quiet else note) for note in part.notes),
            *(_comment(f"to run: {line}" if part.quiet else line) for line in part.commands),
        ]
        parts += closing if part.quiet else []
        for section, grids in zip(part.sections, sections, strict=True):
            parts += [_comment(i.text) if i.step else _small(i.text) for i in section.items]
            parts += _output(
                [_draw(_drop_said(g, shown), name(g), quiet=part.quiet) for g in grids]
            )
        parts += [] if part.quiet else closing
    text = "\n".join(parts)
    more = [f"% and {package}" for command, package in _MORE.items() if command in text]
    return "\n".join([PACKAGES, *more, text]) + "\n"


def _grids_of(section: Section, part: Document) -> list[Grid]:
    return [_add_title(page, part) for grid in section.grids for page in _pages(grid)]


def _pages(grid: Grid) -> Iterator[Grid]:
    """The grid, or parts of it that fit on a page, which begin with a block."""
    begins = [index for index, line in enumerate(grid.lines) if line.block] or [0]
    height = len(grid.lines) + sum(
        bool(part) for line in grid.lines for part in (line.block, line.group)
    )
    if height * len(_fit(grid)) <= _HIGH or len(begins) < 2:
        yield grid
        return
    count = min(len(begins), math.ceil(height * len(_fit(grid)) / _HIGH))
    size = math.ceil(len(begins) / count)
    cuts = [*begins[::size], len(grid.lines)]
    for number, (first, last) in enumerate(pairwise(cuts)):
        name = f"{grid.name}, continued" if number else grid.name
        yield replace(grid, name=name, lines=grid.lines[first:last])


def _add_title(grid: Grid, part: Document) -> Grid:
    """The grid with a name of its own among several parts."""
    name = f"{grid.name} ({part.title})" if part.title else grid.name
    return replace(grid, name=name)


def _comment(text: str) -> str:
    return "\n".join(f"% {printable(' '.join(line.split()))}" for line in text.splitlines())


def _small(text: str) -> str:
    return f"\\par\\noindent{{\\footnotesize {escape(text)}\\par}}"


def check_label(label: str, option: str) -> None:
    """UsageError for a label that LaTeX cannot read; option: its name in the message."""
    if label and not _LABEL.fullmatch(label):
        raise UsageError(
            f"{option} '{label}': expected letters, digits and :._/+- alone (tab:main)"
        )


def _name(shown: Document, count: int, marks: Counter[str], grid: Grid) -> list[str]:
    """Caption and label of one of `count` floats; marks: the labels that are taken."""
    name = re.sub(r"[^a-z0-9]+", "-", grid.name.lower()).strip("-")
    caption = shown.caption.rstrip(".")
    caption += f" ({grid.name})" if caption and count > 1 else ""
    mark = f"{shown.label}-{name}" if count > 1 else shown.label
    marks[mark] += 1
    mark += f"-{marks[mark]}" if marks[mark] > 1 else ""
    own = ": ".join(filter(None, (grid.name, grid.caption)))
    lines = [rf"\caption{{{escape(caption or own)}{'' if caption.endswith(('?', '!')) else '.'}}}"]
    return [*lines, rf"\label{{{mark}}}"] if shown.label else lines


def _drop_said(grid: Grid, shown: Document) -> Grid:
    """The grid with what its numbers and marks mean, unless the caption of the document says so."""
    is_said = not shown.caption or grid.caption in shown.caption
    return replace(grid, caption="") if is_said else grid


def _draw(grid: Grid, caption: Sequence[str], *, quiet: bool) -> str:
    return _long(grid, "".join(caption)) if grid.groups else _float(grid, caption, quiet=quiet)


def _output(floats: Sequence[str]) -> Iterator[str]:
    """The floats, with a new page before LaTeX has more of them than it can hold."""
    for number, text in enumerate(floats):
        if number and number % _HELD == 0:
            yield r"\clearpage"
        yield text


def escape(text: str) -> str:
    """Text that LaTeX prints literally; other characters outside Latin-1 become a question mark.

    Repeated hyphens and commas are separated, since fonts turn `--` into a dash and `,,` into a
    quotation mark.
    """
    parts: list[str] = []
    before = ""
    for char in " ".join(text.split()):
        is_joined = (before in _DASHES and char in _DASHES) or before == char == ","
        is_plain = char.isprintable() and ord(char) < 0x100
        parts.append("{}" * is_joined + _ESCAPES.get(char, char if is_plain else "?"))
        before = char
    return "".join(parts)


def _float(grid: Grid, caption: Sequence[str], *, quiet: bool) -> str:
    """A float, over both page columns and shrunk if it is wide, in parts if it is still too wide.

    quiet: whether footer and signature are comments.
    """
    tables = _fit(grid)
    widths = [_width(part) for part in tables]
    kind = "table*" if max(widths) > _NARROW else "table"
    if quiet:
        signed = (f"signature: {line}" for line in grid.signature.splitlines())
        after = [_comment(grid.footer), *map(_comment, signed)]
    else:
        footer = escape(grid.footer)
        after = [rf"\par\smallskip{{\footnotesize {footer}\par}}", *_signature(grid.signature)]
    body: list[str] = []
    for part in tables:
        body += [r"\par\medskip"] if body else []
        body += _shrink(_tabular(part)) if kind == "table*" else _tabular(part)
    parts = [
        rf"\begin{{{kind}}}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        *caption,
        *body,
        rf"\par\smallskip{{\footnotesize {escape(grid.caption)}\par}}" if grid.caption else "",
        *after,
        rf"\end{{{kind}}}",
    ]
    return "\n".join(filter(None, parts))


def _fit(grid: Grid) -> list[Grid]:
    """The grid, or parts of it with about as many columns each; heads over several stay whole."""
    width = _width(grid)
    if width <= _WIDE * _SHRUNK:
        return [grid]
    spans = [columns for _, columns in grid.spans()]
    first = _first_width(grid)
    count = math.ceil((width - first) / max(_WIDE - first, _WIDE / 2))
    size = math.ceil(len(spans) / min(count, len(spans)))
    chunks = [spans[start : start + size] for start in range(0, len(spans), size)]
    parts, begin = [], 0
    for chunk in chunks:
        columns = tuple(column for span in chunk for column in span)
        own = slice(begin, begin + len(columns))
        lines = tuple(replace(line, entries=line.entries[own]) for line in grid.lines)
        parts.append(replace(grid, columns=columns, lines=lines))
        begin += len(columns)
    return parts


def _first_width(grid: Grid) -> int:
    return max(map(len, (grid.first, *(line.title for line in grid.lines))), default=0)


def _width(grid: Grid) -> float:
    """The width of a table in characters, with the gaps between its columns."""
    total: float = _first_width(grid)
    for index, column in enumerate(grid.columns):
        texts = (line.entries[index] for line in grid.lines)
        own = [len(f"{e.text} {e.around} {e.suffix}".strip()) for e in texts]
        total += max(*own, *map(len, _fold(column.head)), 0) + 1.6
    return total


def _fold(head: str) -> list[str]:
    """The lines of a head: names of data sets are broken, `oxford-` `flowers`."""
    return NAME_BREAKS.split(head)


def _shrink(tabular: Sequence[str]) -> list[str]:
    """The table, no wider than the page."""
    width = r"\ifdim\width>\textwidth\textwidth\else\width\fi"
    return [rf"\resizebox{{{width}}}{{!}}{{%", *tabular[:-1], rf"{tabular[-1]}}}"]


def _tabular(grid: Grid) -> list[str]:
    # Between columns a gap has no shade, within one it has; `>` is of a package that shades need.
    gap = r">{\hspace{1em}}" if any(line.ours for line in grid.lines) else r"@{\hspace{1.5em}}"
    specs = []
    for column in grid.columns:
        spec = {"value": "c", "side": "r", "text": "l"}[column.kind]
        specs.append(f"{gap}{spec}" if column.apart else spec)
    begin, end = rf"\begin{{tabular}}{{l{''.join(specs)}}}", r"\end{tabular}"
    return [begin, *_head(grid), *_body(grid), r"\bottomrule", end]


def _head(grid: Grid) -> list[str]:
    above = []
    if any(column.over for column in grid.columns):
        cells, rules, number = [""], [], 2
        for over, columns in grid.spans():
            last = number + len(columns) - 1
            text = escape(over)
            cells.append(rf"\multicolumn{{{len(columns)}}}{{c}}{{{text}}}" if over else "")
            rules += [rf"\cmidrule(lr){{{number}-{last}}}"] if over else []
            number = last + 1
        above = [_row(cells), " ".join(rules)]
    heads = (_fold_head(column) for column in grid.columns)
    return [r"\toprule", *above, _row([escape(grid.first), *heads]), r"\midrule"]


def _fold_head(column: Column) -> str:
    lines = [*map(escape, _fold(column.head))] if column.kind == "value" else [escape(column.head)]
    text = r"\\".join(lines)
    return rf"\shortstack{{{text}}}" if len(lines) > 1 else text


def _body(grid: Grid) -> Iterator[str]:
    """The lines, under the titles of their blocks and groups."""
    for index, line in enumerate(grid.lines):
        for title, style in ((line.block, "textbf"), (line.group, "textit")):
            if title and title == line.block and index:
                yield r"\midrule"
            if title:
                text = rf"\{style}{{{escape(title)}}}"
                yield rf"\multicolumn{{{len(grid.columns) + 1}}}{{l}}{{{text}}} \\"
        yield _line(line)


def _long(grid: Grid, caption: str) -> str:
    """A `longtable`, which may span pages, with a rule between groups."""
    columns = "".join("l" if column.kind == "text" else "r" for column in grid.columns)
    body: list[str] = []
    for line, begins in zip(grid.lines, grid.begins_group(), strict=True):
        body += [r"\midrule"] if begins and body else []
        blank = Line("", (Entry(""), *line.entries[1:]))
        body.append(_line(line if begins else blank))
    return "\n".join(
        [
            rf"\begin{{longtable}}{{l{columns}}}",
            rf"{caption}\\",
            *_head(grid),
            r"\endfirsthead",
            *_head(grid),
            r"\endhead",
            *body,
            r"\bottomrule",
            r"\end{longtable}",
            *([_small(grid.caption)] if grid.caption else []),
        ]
    )


def _line(line: Line) -> str:
    title = rf"\quad {escape(line.title)}" if line.inside else escape(line.title)
    row = _row([title, *map(_entry, line.entries)])
    return rf"\rowcolor{{black!8}}{row}" if line.ours else row


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _signature(line: str) -> list[str]:
    """The signature in small print, breakable at its separators; `parse` ignores line breaks."""
    texts = (_BREAKS.sub(r"\\allowbreak{}", escape(own)) for own in line.splitlines())
    return [rf"\par{{\tiny\ttfamily\raggedright {text}\par}}" for text in texts]


def _entry(entry: Entry) -> str:
    """Escaped text; signed numbers are in math mode, for a minus sign instead of a hyphen."""
    text = escape(entry.text)
    if entry.text[:1] in ("+", "-") and entry.text[1:].replace(".", "").isdigit():
        text = f"${entry.text}$"
    if entry.rank == BEST:
        # Bold text leaves formulas as they are.
        bold = r"\boldmath" if text.startswith("$") else ""
        text = rf"\textbf{{{bold}{text}}}"
    elif entry.rank == SECOND:
        text = rf"\underline{{{text}}}"
    around = f" {escape(entry.around.replace('±', '± '))}" if entry.around else ""
    return f"{text}{around}{' ' if entry.suffix else ''}{escape(entry.suffix)}"
