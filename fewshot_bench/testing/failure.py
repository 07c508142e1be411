"""Exceptions of checks: `CheckFailure` for a broken rule, `CheckSkipped` if it does not apply."""

from __future__ import annotations

import unittest


class CheckFailure(AssertionError):
    """A method breaks the rule of a check."""


class CheckSkipped(unittest.SkipTest):
    """The rule does not apply; pytest shows the reason as a skip."""


def require(holds: bool, reason: str) -> None:
    """CheckFailure with the reason unless `holds`."""
    if not holds:
        raise CheckFailure(reason)
