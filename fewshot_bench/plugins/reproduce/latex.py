"""A published table beside ours as LaTeX, for an appendix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fewshot_bench.analysis.formats.latex import PACKAGES, escape
from fewshot_bench.plugins.reproduce.model import Report
from fewshot_bench.plugins.reproduce.tables import HEAD, NUMERIC, closing, opening, rows
from fewshot_bench.utils.text import printable


def render(report: Report) -> str:
    """A `longtable`, since published tables are longer than a page; steps to take as comments."""
    first, *before = opening(report)
    columns = "".join("r" if name in NUMERIC else "l" for name in HEAD)
    below = [*before, *closing(replace(report, advice=()))]
    lines = [
        PACKAGES,
        r"% and \usepackage{longtable}",
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{escape(first)}.}}\\",
        *_HEAD,
        r"\endfirsthead",
        *_HEAD,
        r"\endhead",
        *_body(report),
        r"\bottomrule",
        r"\end{longtable}",
        *(rf"\par\noindent{{\footnotesize {escape(text)}\par}}" for text in below),
        *(f"% {printable(' '.join(text.split()))}" for text in report.advice),
    ]
    return "\n".join(lines) + "\n"


def _body(report: Report) -> Iterable[str]:
    """Rows, with a rule where a method or its shots begin."""
    for index, row in enumerate(rows(report.lines, blank=True)):
        if index and row[0]:
            yield r"\midrule"
        yield _row(row)


def _row(cells: Iterable[str]) -> str:
    return " & ".join(_cell(cell) for cell in cells) + r" \\"


def _cell(text: str) -> str:
    """Signed numbers have a minus sign, not a hyphen."""
    if text[:1] in ("+", "-") and text[1:].replace(".", "").isdigit():
        return f"${text}$"
    return escape(text)


_HEAD = (r"\toprule", _row(HEAD), r"\midrule")
