"""Tables of the page, before any markup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column head; `hint` explains the numbers, which are right-aligned and sort as numbers."""

    title: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """One field; `sort`: value to sort by in place of the text; `css`: classes.

    detail: text after the main text, which may be left out if there is little room.
    """

    text: str
    sort: float | None = None
    css: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A text with the title of what it leads to, and the address, if that is known."""

    text: str
    title: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line; its first field is its head. mark, color, paper: of a method, if it is about one."""

    fields: Sequence[Field]
    mark: str = ""
    color: str = ""
    css: str = ""
    paper: Link | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: `name` is its id on the page, `caption` its title."""

    name: str
    caption: str
    columns: Sequence[Column]
    lines: Sequence[Line]
    filtered: bool = False
