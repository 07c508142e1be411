"""Output of tables, audits and reproductions, before any markup.

A `Document` has sections of sentences and grids, then notes, commands and a signature, plus the
tidy rows for CSV and the data for JSON. `formats.render` writes it in every format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MISSING = "—"
INAPPLICABLE = "n/a"
BEST, SECOND = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One number as text, with the interval or range `around` it.

    rank: BEST, SECOND or 0. suffix: a remark on the number; short: the same for narrow outputs.
    """

    mean: str
    around: str = ""
    suffix: str = ""
    rank: int = 0
    short: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a grid: its numbers, and `costs`, the texts of the other columns."""

    title: str
    entries: tuple[Entry, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table on the page: a group's values, its differences to the baseline, or tests of them.

    shots: heads of the numbers. costs: heads of the other columns. first: head of the titles. left:
    heads of left-aligned columns. signature: the line from which it can be recomputed. prose: the
    last column is a sentence. groups: lines with the title and first cost of the line above omit
    them, with a rule between groups; such a grid may be longer than a page.
    """

    name: str
    caption: str
    shots: tuple[str, ...]
    costs: tuple[str, ...]
    lines: tuple[Line, ...]
    footer: str = ""
    first: str = "method"
    signature: str = ""
    left: tuple[str, ...] = ()
    prose: bool = False
    groups: bool = False
    narrow: Grid | None = None

    @property
    def heads(self) -> tuple[str, ...]:
        """All heads."""
        return (self.first, *self.shots, *self.costs)


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
    one below the other, in place of sections, notes, commands and signature.
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

    @property
    def headed(self) -> list[tuple[str, Document]]:
        """The parts under their headings; the document itself under none if it has no parts."""
        count = len(self.parts)
        heads = (f"Conditions {n} of {count}: {p.title}" for n, p in enumerate(self.parts, 1))
        return list(zip(heads, self.parts, strict=True)) or [("", self)]

    @classmethod
    def of(
        cls,
        grids: Iterable[Grid],
        notes: Sequence[str] = (),
        commands: Sequence[str] = (),
        signature: str = "",
    ) -> Document:
        """A document with one section of grids."""
        return cls((Section(grids=grids),), notes, commands, signature)


def leading(lines: Sequence[Line]) -> list[bool]:
    """For each line of a grid with groups, whether it begins a group."""
    keys = [(line.title, line.costs[:1]) for line in lines]
    return [index == 0 or key != keys[index - 1] for index, key in enumerate(keys)]
