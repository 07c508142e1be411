"""A report as text: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.markdown import escape
from fewshot_bench.analysis.formats.tidy import field
from fewshot_bench.plugins.reproduce.model import WORDS, Line, Report
from fewshot_bench.utils.text import printable, signed

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("method", "shots", "data set", "paper", "ours", "difference", "noise", "seeds", "verdict")
NUMERIC = HEAD[3:8]
COLUMNS = (
    *("reproduction", "method", "shots", "dataset", "paper", "ours", "sd", "seeds", "difference"),
    *("noise", "ratio", "status", "verdict", "reason", "datasets", "datasets_of", "test_images"),
    *("test_sampling", "backbone"),
)
ABSENT = "–"


def render_terminal(report: Report, width: int = 120) -> str:
    """Everything, line by line; a row's name stands where it begins."""
    from rich.console import Console
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False, markup=False, emoji=False)
    for text in opening(report):
        console.print(Text(printable(text)))
    console.print()
    console.print(_rich_table(report.lines))
    console.print()
    for text in closing(report):
        console.print(Text(printable(text)), soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def render_markdown(report: Report) -> str:
    """A section with one table (GitHub's dialect)."""
    lines = [HEAD, ["---" if name not in NUMERIC else "---:" for name in HEAD]]
    lines += [[escape(text) for text in row] for row in rows(report.lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    first, *before = opening(report)
    below = "\n".join(f"- {escape(text)}" for text in [*before, *closing(report)])
    return f"### {escape(first)}\n\n{table}\n\n{below}\n"


def render_csv(report: Report) -> str:
    """One line per cell and per mean; empty where there is no number."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in report.lines:
        values = _values(report, line)
        writer.writerow({name: field(value) for name, value in values.items()})
    return buffer.getvalue()


def render_json(report: Report) -> str:
    """The lines as in the CSV, with null for what is missing, and `meta` about all of them."""
    meta = {
        "reproduction": report.name,
        "title": report.title,
        "sources": report.sources,
        "backbone": report.backbone,
        "unit": "percent, and points of difference",
        "noise": "95 % range of the difference if both are right",
        "conditions": report.conditions,
        "differences": report.differences,
        "notes": report.notes,
        "advice": report.advice,
        "cells": report.counts(averages=False),
        "means": report.counts(averages=True),
    }
    found = [_values(report, line) for line in report.lines]
    return json.dumps({"meta": meta, "rows": found}, indent=1, allow_nan=False) + "\n"


def opening(report: Report) -> list[str]:
    """What was repeated, where it is from, and under which conditions."""
    lines = [f"{report.name}: {report.title}"]
    lines += [f"source: {source}" for source in report.sources]
    lines += [f"here: {text}" for text in report.conditions]
    return lines + [f"differs or is not known: {text}" for text in report.differences]


def closing(report: Report) -> list[str]:
    """How many lines came to what, notes and next steps."""
    lines = []
    for title, averages in (("cells", False), ("means over data sets", True)):
        counts = report.counts(averages=averages)
        if counts:
            words = ", ".join(f"{n} {WORDS.get(status, status)}" for status, n in counts.items())
            lines.append(f"{title}: {words}")
    return [*lines, *report.notes, *report.advice]


def _rich_table(lines: Sequence[Line]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in HEAD:
        table.add_column(name, justify="right" if name in NUMERIC else "left", overflow="fold")
    ends = [one.method != two.method or one.shots != two.shots for one, two in pairwise(lines)]
    for row, end in zip(rows(lines, blank=True), [*ends, False], strict=True):
        table.add_row(*(Text(printable(text)) for text in row), end_section=end)
    return table


def rows(lines: Sequence[Line], *, blank: bool = False) -> Iterator[list[str]]:
    """The texts of each line; `blank` leaves out a method and shots that stand above."""
    above: tuple[str, int] | None = None
    for line in lines:
        here = (line.method, line.shots)
        names = ["", ""] if blank and here == above else [line.method, str(line.shots)]
        above = here
        yield [
            *names,
            f"mean of {line.over} of {line.of} sets" if line.average else line.dataset,
            ABSENT if line.paper is None else f"{line.paper:.{line.decimals}f}",
            ABSENT if line.ours is None else f"{line.ours:.2f}",
            ABSENT if line.difference is None else signed(line.difference),
            ABSENT if line.noise is None else f"±{line.noise:.2f}",
            str(line.seeds) if line.seeds else ABSENT,
            line.verdict,
        ]


def _values(report: Report, line: Line) -> dict[str, Any]:
    return {
        "reproduction": report.name,
        "method": line.method,
        "shots": line.shots,
        "dataset": line.dataset,
        "paper": _rounded(line.paper),
        "ours": _rounded(line.ours),
        "sd": _rounded(line.sd),
        "seeds": line.seeds,
        "difference": _rounded(line.difference),
        "noise": _rounded(line.noise),
        "ratio": _rounded(line.ratio),
        "status": line.status,
        "verdict": line.verdict,
        "reason": line.reason,
        "datasets": line.over if line.average else None,
        "datasets_of": line.of if line.average else None,
        "test_images": line.images or None,
        "test_sampling": _rounded(line.test_sampling),
        "backbone": report.backbone,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
