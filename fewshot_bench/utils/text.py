"""Values in messages: short, on one line, and as a person reads them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 240
LONGEST_MESSAGE = 3000
FEW, MANY = 3, 20

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 160
_brief.maxlevel = 2


def printable(text: str, longest: int = 0) -> str:
    """Text on one line, without characters that steer a terminal; the middle of a long one goes.

    longest: how many characters are kept, about; 0 keeps all.
    """
    if not text.isprintable():
        text = "".join(_shown_character(character) for character in text)
    if longest and len(text) > longest:
        half = longest // 2
        return f"{text[:half]} ... {text[-half:]}"
    return text


def _shown_character(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else "\ufffd"


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    text = _brief.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def shortened(lines: Sequence[str], most: int = MANY) -> tuple[str, ...]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return (*lines[:most], f"and {more:,} more") if more > 0 else tuple(lines)


def few(names: Iterable[str]) -> str:
    """The first names on one line, and how many more there are."""
    quoted = shortened([f"'{name}'" for name in names], FEW)
    return " ".join([", ".join(quoted[:FEW]), *quoted[FEW:]])


def size_text(count: float) -> str:
    """Bytes as a person reads them, in powers of 1,000: 512 B, 1.5 MB, 37.0 GB."""
    if count < 1000:
        return f"{max(count, 0):.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def signed(value: float, digits: int = 2) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def beside_level(p: float, digits: int, level: float = 0.05) -> str:
    """A p-value with so many decimals, or as many as show on which side of the level it is."""
    while p != level and float(f"{p:.{digits}f}") == level:
        digits += 1
    return f"{p:.{digits}f}"
