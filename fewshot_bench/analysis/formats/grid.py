"""Grids of text: what the terminal, Markdown and LaTeX show, before any markup."""

from __future__ import annotations

from dataclasses import dataclass

MISSING = "—"
INAPPLICABLE = "n/a"
BEST, SECOND = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One number as text, with the interval or range `around` it; `rank` is BEST, SECOND or 0,
    `suffix` says what is special about it, `short` says the same where there is little room.
    """

    mean: str
    around: str = ""
    suffix: str = ""
    rank: int = 0
    short: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a grid: its numbers, and `costs`, the columns of one text each."""

    title: str
    entries: tuple[Entry, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table on the page: a group's values, its differences to the baseline, or tests of them.

    `shots` are the heads of the numbers, `costs` those of the other columns, `first` that of the
    titles. `signature` is the line that says how to compute it again.
    """

    name: str
    caption: str
    shots: tuple[str, ...]
    costs: tuple[str, ...]
    lines: tuple[Line, ...]
    footer: str
    first: str = "method"
    signature: str = ""
