"""Output of tables, audits and reproductions, before any markup.

A `Document` has sections of sentences and grids, then notes, commands and a signature, plus the
tidy rows for CSV and the data for JSON. `formats.render` writes it in every format.

    heads = Column.sides("trained", "seconds")
    lines = (Line.of("coop", "51.2", "8,192", "3"),)
    Grid("dtd", "top-1 accuracy", (Column("1-shot"), *heads), lines)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# Breaks of the names of data sets in heads, but not of `16-shot`.
NAME_BREAKS = re.compile(r"(?<=[a-z]{3}[_-])(?=\w{3})")
MISSING = "—"
INAPPLICABLE = "n/a"
BEST, SECOND = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One text of a line, such as a number with the interval or range `around` it.

    rank: BEST, SECOND or 0. suffix: a remark on the number; short: the same for narrow outputs.
    shade: position on the scale of a map's colors, from 0 to 1; None outside of maps.
    """

    text: str
    around: str = ""
    suffix: str = ""
    rank: int = 0
    short: str = ""
    shade: float | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column.

    kind: `value` of a method, `side` for what stands beside values (a cost), or `text`, which is
    such and aligned to the left. hint: explains the head where there is room. over: a head above
    those of all neighbors that have the same one. apart: whether it stands apart, as an average.
    """

    head: str
    kind: Literal["value", "side", "text"] = "value"
    hint: str = ""
    over: str = ""
    apart: bool = False

    @classmethod
    def sides(cls, *heads: str, left: Iterable[str] = ()) -> tuple[Column, ...]:
        """Columns beside values; left: those of them that are texts."""
        return tuple(cls(head, "text" if head in left else "side") for head in heads)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a grid: its title, and an entry per column.

    block, group: titles above the line, of the block and of the group of rows that begin with it;
    a rule stands above a block, and its best entries are its own. inside: whether the line is in a
    group. ours: whether it stands out.
    """

    title: str
    entries: tuple[Entry, ...]
    block: str = ""
    group: str = ""
    inside: bool = False
    ours: bool = False

    @classmethod
    def of(cls, title: str, *texts: str) -> Line:
        """A line of plain texts."""
        return cls(title, tuple(map(Entry, texts)))


@dataclass(frozen=True, slots=True)
class Grid:
    """One table on the page: a group's values, its differences to the baseline, or tests of them.

    first: head of the titles. signature: the line from which it can be recomputed. prose: the last
    column is a sentence. groups: lines with the title and first entry of the line above omit them,
    with a rule between groups; such a grid may be longer than a page. narrow: what a screen without
    room shows instead.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    footer: str = ""
    first: str = "method"
    signature: str = ""
    prose: bool = False
    groups: bool = False
    narrow: Grid | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """All heads."""
        return (self.first, *(column.head for column in self.columns))

    def spans(self) -> list[tuple[str, list[Column]]]:
        """Neighbors under one head, with that head; every other column by itself, without one."""
        runs: list[tuple[str, list[Column]]] = []
        for column in self.columns:
            if column.over and runs and runs[-1][0] == column.over:
                runs[-1][1].append(column)
            else:
                runs.append((column.over, [column]))
        return runs

    def begins_group(self) -> list[bool]:
        """For each line of a grid with groups, whether it begins one."""
        keys = [(line.title, *(entry.text for entry in line.entries[:1])) for line in self.lines]
        return [index == 0 or key != keys[index - 1] for index, key in enumerate(keys)]


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence; the terminal prints `mark` before it, in the given `style`.

    step: whether it is an instruction for the next step, which becomes a comment in LaTeX.
    """

    text: str
    mark: str = ""
    style: str = ""
    step: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, sentences, then grids; `small` is small print below them."""

    title: str = ""
    items: Sequence[Item] = ()
    grids: Iterable[Grid] = ()
    small: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """The complete output of a command.

    commands: commands that run missing cells. signature: the line of all records. rows: CSV rows.
    heads: CSV columns if there are no rows. data: JSON content. parts: documents with a `title`,
    one below the other, in place of sections, notes, commands and signature. caption: the user's,
    of all tables, and label: of LaTeX. quiet: whether notes and signatures are comments in LaTeX,
    as in a paper.
    """

    sections: Sequence[Section] = ()
    notes: Sequence[str] = ()
    commands: Sequence[str] = ()
    signature: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    heads: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    parts: tuple[Document, ...] = ()
    caption: str = ""
    label: str = ""
    quiet: bool = False

    @property
    def headed(self) -> list[tuple[str, Document]]:
        """The parts under their headings; the document itself under none if it has no parts."""
        count = len(self.parts)
        heads = (f"Conditions {n} of {count}: {p.title}" for n, p in enumerate(self.parts, 1))
        return list(zip(heads, self.parts, strict=True)) or [("", self)]
