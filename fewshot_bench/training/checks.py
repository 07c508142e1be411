"""Checks of hyper-parameters, for `__post_init__`: UsageError before anything is computed.

Each message contains the value, the expectation, and `fsbench show METHOD`.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, ClassVar, Literal, Protocol

from fewshot_bench.utils.errors import UsageError


class Named(Protocol):
    """A dataclass with a registered name."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def require(method: Named, field: str, holds: bool, expected: str) -> None:
    """UsageError with the value, the expectation and the next step, unless `holds`.

    >>> require(self, "order", self.order % 2 == 0, "an even number")
    """
    if not holds:
        value = getattr(method, field)
        raise UsageError(
            f"{method.name}: {field}={value!r}: expected {expected} (fsbench show {method.name})"
        )


def require_choices(method: Named) -> None:
    """UsageError unless every field annotated with a Literal has one of its choices.

    >>> def __post_init__(self): require_choices(self)
    """
    for field, kind in typing.get_type_hints(type(method)).items():
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            expected = "one of " + ", ".join(map(str, choices))
            require(method, field, getattr(method, field) in choices, expected)


# Optimizers convert their settings to float32, and Adam ten times its learning rate at first; torch
# ends with an error at larger ones.
_LARGEST = 3e37


def require_positive(method: Named, *fields: str) -> None:
    """UsageError unless the fields are numbers above 0 that float32 can hold.

    >>> def __post_init__(self): require_positive(self, "rank", "lr")
    """
    for field in fields:
        value = getattr(method, field)
        expected = f"a finite number above 0{_at_most(value)}"
        require(method, field, 0 < value <= _LARGEST, expected)


def require_not_negative(method: Named, *fields: str) -> None:
    """UsageError unless the fields are numbers of at least 0 that float32 can hold.

    >>> def __post_init__(self): require_not_negative(self, "dropout")
    """
    for field in fields:
        value = getattr(method, field)
        expected = f"a finite number of at least 0{_at_most(value)}"
        require(method, field, 0 <= value <= _LARGEST, expected)


def _at_most(value: float) -> str:
    return f", at most {_LARGEST:g}" if _LARGEST < value < float("inf") else ""
