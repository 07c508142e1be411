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
    """UsageError with the value, the expectation and the next step, unless `holds`."""
    if not holds:
        value = getattr(method, field)
        raise UsageError(
            f"{method.name}: {field}={value!r}: expected {expected} (fsbench show {method.name})"
        )


def require_choices(method: Named) -> None:
    """UsageError unless every field annotated with a Literal has one of its choices."""
    for field, kind in typing.get_type_hints(type(method)).items():
        if typing.get_origin(kind) is Literal:
            choices = typing.get_args(kind)
            expected = "one of " + ", ".join(map(str, choices))
            require(method, field, getattr(method, field) in choices, expected)


def require_positive(method: Named, *fields: str) -> None:
    """UsageError unless the fields are finite numbers above 0."""
    for field in fields:
        finite = 0 < getattr(method, field) < float("inf")
        require(method, field, finite, "a finite number above 0")


def require_not_negative(method: Named, *fields: str) -> None:
    """UsageError unless the fields are finite numbers of at least 0."""
    for field in fields:
        finite = 0 <= getattr(method, field) < float("inf")
        require(method, field, finite, "a finite number of at least 0")
