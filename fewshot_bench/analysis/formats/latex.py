"""The table as LaTeX with booktabs; all text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fewshot_bench.analysis.formats.grid import BEST, SECOND, Entry, Grid
from fewshot_bench.analysis.table.layout import closing, grids
from fewshot_bench.analysis.table.model import Table
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

# The first line of every document.
PACKAGES = "% needs \\usepackage{booktabs}, \\usepackage{textcomp} and \\usepackage[T1]{fontenc}"
_DASHES = frozenset("-–—")
# More columns than this do not fit into one of two columns of a page.
_NARROW = 6
# Where a signature may be broken: after these, and before what is written as %XX.
_BREAKS = re.compile(r"(?<=[|,;:/=])|(?<=\\textbar\{\})|(?=\\%)")


def render(table: Table) -> str:
    """One `table` float per grid; notes and commands follow as comments and small print."""
    return write(grids(table), *closing(table))


def write(found: Iterable[Grid], notes: Sequence[str] = (), commands: Sequence[str] = ()) -> str:
    """Grids, notes and commands, wherever they are from."""
    parts = [
        PACKAGES,
        *(_grid(grid) for grid in found),
    ]
    parts += [f"\\par\\noindent{{\\footnotesize {escape(note)}\\par}}" for note in notes]
    parts += [f"% {printable(command)}" for command in commands]
    return "\n".join(parts) + "\n"


def write_paper(
    found: Iterable[Grid],
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    *,
    label: str = "",
    caption: str = "",
) -> str:
    """Grids in the layout of papers: no small print; notes, commands and the signature as comments.

    label, caption: of the floats. Where there are several, the name of each is added.
    """
    grids = list(found)
    several = len(grids) > 1
    parts = [PACKAGES]
    parts += [f"% note: {printable(note)}" for note in notes]
    parts += [f"% to run: {printable(command)}" for command in commands]
    for grid in grids:
        name = re.sub(r"[^a-z0-9]+", "-", grid.name.lower()).strip("-")
        own = f"{caption.rstrip('.')} ({grid.name})" if several else caption.rstrip(".")
        text = own if caption else f"{grid.name}: {grid.caption}"
        mark = f"{label}-{name}" if several else label
        parts.append(_paper_float(grid, text, mark if label else ""))
    return "\n".join(parts) + "\n"


def _paper_float(grid: Grid, caption: str, label: str) -> str:
    """Over both columns of a page where it has many columns; the last number stands apart."""
    numbers, costs = len(grid.shots), len(grid.costs)
    kind = "table*" if numbers + costs > _NARROW else "table"
    last = r"@{\hspace{1.5em}}c" if numbers > 1 else "c" * numbers
    heads = [escape(grid.first), *map(escape, grid.shots), *map(escape, grid.costs)]
    body = [_row([escape(line.title), *map(_entry, line.entries), *map(escape, line.costs)])
            for line in grid.lines]  # fmt: skip
    return "\n".join(
        [
            rf"\begin{{{kind}}}",
            r"\centering",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{escape(caption)}.}}",
            *([rf"\label{{{label}}}"] if label else []),
            rf"\begin{{tabular}}{{l{'c' * (numbers - 1)}{last}{'r' * costs}}}",
            r"\toprule",
            _row(heads),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            f"% {printable(grid.footer)}",
            *([f"% signature: {printable(grid.signature)}"] if grid.signature else []),
            rf"\end{{{kind}}}",
        ]
    )


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; characters outside Latin-1 become a question mark.

    Hyphens and commas are kept apart: fonts make a dash of `--`, and a quotation mark of `,,`.
    """
    parts: list[str] = []
    before = ""
    for char in " ".join(text.split()):
        joined = (before in _DASHES and char in _DASHES) or before == char == ","
        parts.append(f"{'{}' if joined else ''}{_escape_character(char)}")
        before = char
    return "".join(parts)


def _escape_character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return char if char.isprintable() and ord(char) < 0x100 else "?"


def _grid(grid: Grid) -> str:
    columns = "l" + "c" * len(grid.shots) + "r" * len(grid.costs)
    heads = [escape(grid.first), *map(escape, grid.shots), *map(escape, grid.costs)]
    body = [_row([escape(line.title), *map(_entry, line.entries), *map(escape, line.costs)])
            for line in grid.lines]  # fmt: skip
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(grid.name)}: {escape(grid.caption)}.}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _row(heads),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\par\smallskip{{\footnotesize {escape(grid.footer)}\par}}",
            *_signature(grid.signature),
            r"\end{table}",
        ]
    )


def _signature(line: str) -> list[str]:
    """Small print that may break after its separators; pasted with breaks it is read as well."""
    if not line:
        return []
    text = _BREAKS.sub(r"\\allowbreak{}", escape(line))
    return [rf"\par{{\tiny\ttfamily\raggedright {text}\par}}"]


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _entry(entry: Entry) -> str:
    mean = escape(entry.mean)
    if entry.mean[:1] in ("+", "-"):
        mean = f"${entry.mean}$"
    if entry.rank == BEST:
        mean = rf"\textbf{{{mean}}}"
    elif entry.rank == SECOND:
        mean = rf"\underline{{{mean}}}"
    around = f" {escape(entry.around.replace('±', '± '))}" if entry.around else ""
    return f"{mean}{around}{' ' if entry.suffix else ''}{escape(entry.suffix)}"
