"""Tables of the page, before any markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A head; `hint` says what the numbers are. Numbers stand on the right and sort as such."""

    title: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `sort` where the text itself is not what to sort by, `css` classes.

    detail: what follows the text, and may be left out where there is little room.
    """

    text: str
    sort: float | None = None
    css: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line; its first field is its head. `look` is the mark of a method, if it is about one."""

    fields: Sequence[Field]
    mark: str = ""
    color: str = ""
    css: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: `name` is its id on the page, `caption` what a reader is told first."""

    name: str
    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    filtered: bool = False
