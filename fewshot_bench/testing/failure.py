"""Exceptions of checks: `CheckFailure` for a broken rule, `CheckSkipped` if it does not apply."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from fewshot_bench.utils.text import limited

LISTED = 5


class CheckFailure(AssertionError):
    """A method breaks the rule of a check."""


class CheckSkipped(unittest.SkipTest):
    """The rule does not apply; pytest shows the reason as a skip."""


def listed(items: Iterable[object], comma: str = ", ") -> str:
    """`a, b, c, d, e and 3 more`: no reason lists more than five things."""
    return limited([str(item) for item in items], LISTED, comma)


def require(holds: bool, reason: str) -> None:
    """CheckFailure with the reason unless `holds`."""
    if not holds:
        raise CheckFailure(reason)
