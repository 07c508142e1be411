"""The signature as it stands under a table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fewshot_bench.analysis.signature.made import signature_of
from fewshot_bench.api.record import Record

# Where a long line may be broken: after these, or anywhere in what is longer than a line.
_PIECES = re.compile(r"[^|,;]*[|,;]+|[^|,;]+")


def under_table(records: Sequence[Record], width: int = 0) -> list[str]:
    """The signature in lines of at most `width` characters (0: one line); none without records."""
    return broken(signature_of(records), width)


def broken(line: str, width: int) -> list[str]:
    """A signature in lines of at most `width` characters (0: one line).

    Broken lines are pasted as they are: `parse` leaves out blanks and line breaks.
    """
    if not line or width <= 0:
        return [line] if line else []
    pieces = [
        piece[start : start + width]
        for piece in _PIECES.findall(line)
        for start in range(0, len(piece), width)
    ]
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines
