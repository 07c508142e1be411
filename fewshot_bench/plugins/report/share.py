"""What a reader takes along: a card with the first methods, and the table as LaTeX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.signature import broken
from fewshot_bench.plugins.report import board, text
from fewshot_bench.plugins.report.board import Bar
from fewshot_bench.plugins.report.headline import Headline
from fewshot_bench.plugins.report.verdict import subject
from fewshot_bench.utils.text import counted, printable_lines

# Methods, and lines of the signature, on a card.
ROWS, LINES = 5, 3
# Characters of a title, of a name, and of a line of small print that fit on a card.
_TITLE, _NAME, _PRINT = 50, 26, 118


@dataclass(frozen=True, slots=True)
class CardRow:
    """A method on the card: `mark` in `color`, its number with interval, and their places."""

    label: str
    mark: str
    color: str
    value: str
    bar: Bar


@dataclass(frozen=True, slots=True)
class Card:
    """A picture of 1200 x 630 points for a slide or a post."""

    title: str
    subject: str
    rows: Sequence[CardRow]
    more: str
    small: Sequence[str]

    @property
    def description(self) -> str:
        """The card in words."""
        return "; ".join([self.subject, *(f"{row.label} {row.value} %" for row in self.rows)])


def card(headline: Headline, title: str, marks: Sequence[str], signature: str) -> Card | None:
    """The best methods of the headline, its marks and signature; None without any number."""
    best = headline.ranked[:ROWS]
    bars = board.bars_of([headline.estimate(one) for one in best])
    rows = [
        CardRow(
            text.short(one.label, _NAME),
            board.MARKS[one.look.marker],
            one.look.variable,
            text.interval(headline.estimate(one)),
            bar,
        )
        for one, bar in zip(best, bars, strict=True)
    ]
    if not rows:
        return None
    more = len(headline.contestants) - len(rows)
    printed = [text.short(mark, _PRINT) for mark in marks[:1]]
    line = broken(signature, _PRINT)
    # What a line has no room for would make it another comparison.
    printed += line if len(line) <= LINES else [*line[: LINES - 1], f"{line[LINES - 1][:-1]}…"]
    return Card(
        text.short(title, _TITLE),
        subject(headline),
        rows,
        f"and {counted(more, 'more method')}" if more else "",
        printed,
    )


def latex_of(headline: Headline) -> str:
    """The table at the headline's shots in the paper layout, as `fsbench compare` writes it."""
    from fewshot_bench.analysis.formats import latex
    from fewshot_bench.analysis.table.layouts import paper

    table = dataclasses.replace(headline.table, shots=(headline.shots,), commands=())
    return printable_lines(latex.write_paper(paper(table, "latex")))
