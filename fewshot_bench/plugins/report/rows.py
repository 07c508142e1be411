"""Tables of the page: texts that sort, and lines about methods with their marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.formats.document import MISSING, Column, Entry, Grid, Line
from fewshot_bench.analysis.formats.style import MARKERS, Look
from fewshot_bench.api.paper import Paper
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant

# The characters that look like matplotlib's markers, in the same order.
MARKS = dict(zip(MARKERS, "●■▲◆▼✚✖◀▶★", strict=True))


@dataclass(frozen=True, slots=True)
class Field(Entry):
    """A text of a line; `around` may be left out if there is little room.

    sort: value to sort by in place of the text. css: classes.
    """

    sort: float | None = None
    css: str = ""


@dataclass(frozen=True, slots=True)
class Row(Line):
    """A line. look, paper: of a method, if it is about one. css: classes."""

    css: str = ""
    look: Look | None = None
    paper: Paper | None = None

    @property
    def mark(self) -> str:
        """The character before the title."""
        return MARKS[self.look.marker] if self.look else ""


NOTHING = Field(MISSING, css="none")


def method_row(contestant: Contestant, fields: Iterable[Field], css: str = "") -> Row:
    """A line about a method, with its mark."""
    classes = f"{contestant.look.css} {css}".strip()
    return Row(contestant.label, tuple(fields), css=classes, look=contestant.look)


def text_row(*words: str, css: str = "") -> Row:
    """A line of texts from records."""
    title, *others = map(text.message, words)
    return Row(title, tuple(map(Field, others)), css=css)


def sheet(
    name: str, caption: str, heads: Sequence[str], rows: Sequence[Row], numeric: Iterable[str] = ()
) -> Grid:
    """A table of texts; numeric: heads of the columns that are aligned and sorted as numbers."""
    first, *others = heads
    columns = Column.sides(*others, left={*others} - {*numeric})
    return Grid(name, caption, columns, tuple(rows), first=first)
