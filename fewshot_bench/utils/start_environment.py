"""The environment that a command was started with: processes that hold labels get no later one.

`remember_environment` keeps it; `environment_at_start` returns it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_remembered: Mapping[str, str] | None = None


@contextmanager
def remember_environment() -> Iterator[None]:
    """Keep a copy of the environment inside; an inner call keeps the outer copy."""
    global _remembered
    before = _remembered
    if before is None:
        _remembered = dict(os.environ)
    try:
        yield
    finally:
        _remembered = before


def environment_at_start() -> dict[str, str]:
    """The kept environment; the present one if none is kept."""
    return dict(os.environ if _remembered is None else _remembered)
