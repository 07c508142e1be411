"""Values from files in error messages: short, on one line."""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST = 240

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 160
_brief.maxlevel = 2


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    text = _brief.repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
