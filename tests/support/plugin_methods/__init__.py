"""A plug-in whose methods misbehave or look around; `tests/conftest.py` installs it by name."""

from __future__ import annotations

from collections.abc import Callable

from fewshot_bench import hookimpl

from .failing import HELD, BadFit, BadLogits, Faulty, Hungry, Leaver
from .looking import Positions, Viewer
from .training import Diverging, Slow
from .vandal import Vandal

__all__ = ["HELD"]

METHODS = (
    *(BadLogits, BadFit, Vandal, Positions, Leaver, Slow, Viewer, Diverging, Hungry, Faulty),
)


@hookimpl
def register_methods(register: Callable[..., None]) -> None:
    """All of the above, by name."""
    for method in METHODS:
        register(method.name, f"fsbench_misbehaving:{method.__name__}")
