"""What a reader takes along: a card with the first methods, and the table as LaTeX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.formats.document import Entry
from fewshot_bench.analysis.signature import break_line
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.board import Bar, bars_of
from fewshot_bench.plugins.report.headline import Headline
from fewshot_bench.plugins.report.rows import Row
from fewshot_bench.plugins.report.verdict import subject
from fewshot_bench.utils.text import counted, printable_lines

# Methods, and lines of the signature, on a card.
ROWS, LINES = 5, 3
# Characters of a title, of a name, and of a line of small print that fit on a card.
_TITLE, _NAME, _PRINT = 50, 26, 118


@dataclass(frozen=True, slots=True)
class Card:
    """A picture of 1200 x 630 points for a slide or a post: the best methods, each with its bar.

    description: the card in words. more: the number of other methods. small: lines of small print.
    """

    title: str
    subject: str
    description: str
    rows: Sequence[tuple[Row, Bar]]
    more: str
    small: Sequence[str]


def card(headline: Headline, title: str, marks: Sequence[str], signature: str) -> Card | None:
    """The best methods of the headline, its marks and signature; None without any number."""
    best = headline.ranked[:ROWS]
    if not best:
        return None
    estimates = [headline.estimate(contestant) for contestant in best]
    rows = [
        Row(
            text.short(contestant.label, _NAME), (Entry(text.interval(value)),), "", contestant.look
        )
        for contestant, value in zip(best, estimates, strict=True)
    ]
    about = subject(headline)
    values = [f"{row.title} {row.entries[0].text} %" for row in rows]
    more = len(headline.contestants) - len(rows)
    printed = [text.short(mark, _PRINT) for mark in marks[:1]]
    line = break_line(signature, _PRINT)
    # What a line has no room for would make it another comparison.
    printed += line if len(line) <= LINES else [*line[: LINES - 1], f"{line[LINES - 1][:-1]}…"]
    return Card(
        text.short(title, _TITLE),
        about,
        "; ".join([about, *values]),
        list(zip(rows, bars_of(estimates), strict=True)),
        f"and {counted(more, 'more method')}" if more else "",
        printed,
    )


def latex_of(headline: Headline) -> str:
    """The table at the headline's shots in the paper layout, as `fsbench compare` writes it."""
    from fewshot_bench.analysis.formats import latex
    from fewshot_bench.analysis.table.layouts import paper

    table = dataclasses.replace(headline.table, shots=(headline.shots,), commands=())
    return printable_lines(latex.write_paper(paper(table, "latex")))
