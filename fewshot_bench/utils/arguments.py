"""Validation of arguments of the library's functions: `checked` applies a `Kind` to each.

Valid values are returned in a canonical form: several values as a tuple, NumPy numbers as Python
numbers.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from fewshot_bench.utils.errors import FsbenchError, UsageError, WrongTypeError
from fewshot_bench.utils.text import split_names

_P = ParamSpec("_P")
_R = TypeVar("_R")
# An option in the text of an error; the space before a value with a colon is found, too.
_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]+)((?: (?=\S+:))?)")


@dataclass(frozen=True)
class Kind:
    """`expected` describes valid values; `read` converts one, or raises TypeError or ValueError."""

    expected: str
    read: Callable[[Any], Any]


def checked(kinds: Mapping[str, Kind], given: Mapping[str, Any]) -> dict[str, Any]:
    """The converted arguments; UsageError for the first invalid one, WrongTypeError for its type.

    Others pass unchanged.
    """
    arguments = dict(given)
    for name, kind in kinds.items():
        if name in given:
            try:
                arguments[name] = kind.read(given[name])
            except (TypeError, ValueError) as error:
                wrong = WrongTypeError if isinstance(error, TypeError) else UsageError
                raise wrong(f"{name}={given[name]!r:.80}: expected {kind.expected}") from None
    return arguments


def naming_arguments(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let errors of a function name its arguments in place of the options of its command.

    Errors within a command keep the options.
    """
    parameters = inspect.signature(function).parameters

    def name_argument(option: re.Match[str]) -> str:
        asked, rest = parameters.get(name := option[1].replace("-", "_")), option[2]
        if asked is None:
            return option[0]
        return f"{name}=True{rest}" if asked.default is False else name + "=" * len(rest)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except FsbenchError as error:
            if click.get_current_context(silent=True) is None:
                error.args = tuple(_OPTION.sub(name_argument, str(text)) for text in error.args)
            raise

    return call


def optional(kind: Kind) -> Kind:
    """`kind`, or None."""
    return Kind(f"{kind.expected}, or None", lambda v: None if v is None else kind.read(v))


def whole(least: int, most: int | None = None) -> Kind:
    """A whole number of at least `least`, and at most `most` if given."""
    limit = "" if most is None else f" to {most:,}"
    return Kind(f"a whole number from {least}{limit}", lambda value: _whole(value, least, most))


def number(expected: str, fits: Callable[[float], bool]) -> Kind:
    """A finite number for which `fits` is True."""

    def read(value: Any) -> float:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError
        if not math.isfinite(value) or not fits(float(value)):
            raise ValueError
        return float(value)

    return Kind(expected, read)


def several(expected: str, read: Callable[[Any], Any], least: int = 1) -> Kind:
    """One value, or an iterable of at least `least` values; read as a tuple."""

    def read_all(value: Any) -> tuple[Any, ...]:
        single = isinstance(value, str | os.PathLike) or not isinstance(value, Iterable)
        values = (value,) if single else tuple(value)
        if len(values) < least:
            raise ValueError
        return tuple(map(read, values))

    return Kind(expected, read_all)


def wholes(least: int) -> Kind:
    """One or more whole numbers of at least `least`."""
    return several(f"whole numbers from {least}", lambda value: _whole(value, least))


def names(expected: str, least: int = 1) -> Kind:
    """At least `least` names, as an iterable or a comma-separated text."""
    given = several(expected, _text, 0)

    def read(value: Any) -> tuple[str, ...]:
        values = split_names(value) if isinstance(value, str) else given.read(value)
        if len(values) < least:
            raise ValueError
        return tuple(values)

    return Kind(expected, read)


def text(expected: str) -> Kind:
    """A string."""
    return Kind(expected, _text)


def word(*words: str) -> Kind:
    """One of the given words."""
    return Kind(" or ".join(map(repr, words)), lambda value: words[words.index(_text(value))])


def _is(kind: type) -> Callable[[Any], Any]:
    """A reader of values of this type, unchanged."""

    def read(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return read


_text = _is(str)


def _whole(value: Any, least: int, most: int | None = None) -> int:
    number = operator.index(value)
    if isinstance(value, bool):
        raise TypeError
    if number < least or (most is not None and number > most):
        raise ValueError
    return number


def _folder(value: Any) -> Path:
    if not os.fspath(value):
        raise ValueError
    return Path(value)


FLAG = Kind("True or False", _is(bool))
FOLDER = Kind("the path of a folder", _folder)
TEXTS = Kind("templates, waffle or the path of a file", os.fspath)
RENAMING = Kind(
    "a mapping of names to other names", lambda value: msgspec.convert(value, dict[str, str])
)
