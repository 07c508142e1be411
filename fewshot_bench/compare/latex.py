"""The table as LaTeX with booktabs; all text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fewshot_bench.compare.grid import BEST, SECOND, Entry, Grid
from fewshot_bench.compare.model import Table
from fewshot_bench.compare.tables import closing, grids
from fewshot_bench.wording import printable

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

_DASHES = frozenset("-–—")
# Where a signature may be broken: after these, and before what is written as %XX.
_BREAKS = re.compile(r"(?<=[|,;:/=])|(?<=\\textbar\{\})|(?=\\%)")


def render(table: Table) -> str:
    """One `table` float per grid; notes and commands follow as comments and small print."""
    return write(grids(table), *closing(table))


def write(found: Iterable[Grid], notes: Sequence[str] = (), commands: Sequence[str] = ()) -> str:
    """Grids, notes and commands, wherever they are from."""
    parts = [
        "% needs \\usepackage{booktabs}, \\usepackage{textcomp} and \\usepackage[T1]{fontenc}",
        *(_grid(grid) for grid in found),
    ]
    parts += [f"\\par\\noindent{{\\footnotesize {escape(note)}\\par}}" for note in notes]
    parts += [f"% {printable(command)}" for command in commands]
    return "\n".join(parts) + "\n"


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
