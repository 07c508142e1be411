"""Checks values of JSON against declared types by msgspec, and says which value is wrong."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fewshot_bench.utils.errors import StoreError

# Steps of a path such as `$.split.templates[3]`; msgspec writes `[...]` for any key.
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")


def kind_problem(value: Any, kind: Any, words: Sequence[object] = ()) -> str:
    """Why a value is not of a kind; empty if it is. words: the possible values, if few."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        return _explain(str(error), words)
    return ""


def _explain(told: str, words: Sequence[object]) -> str:
    """The words of msgspec, which neither lists the possible values nor explains a pattern."""
    if told.startswith("Invalid enum value") and words:
        return f"expected one of {tuple(words)}"
    if "matching regex" in told:
        return "expected a name of letters, digits and _ . + -"
    return told[:1].lower() + told[1:]


def check_kinds(
    what: str, values: Any, kind: Any, words: Mapping[str, Sequence[object]] | None = None
) -> None:
    """StoreError naming the first value that is not of its kind.

    what: what the values are of. words: possible values of fields that are one of a few.
    """
    try:
        msgspec.convert(values, kind)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        told, _, path = str(error).partition(" - at `")
        steps = _steps_to(values, kind, path.rpartition("`$")[2] if "`$" in path else path)
        named = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        value = functools.reduce(operator.getitem, steps, values)
        expected = _explain(told, (words or {}).get(str(steps[-1]), ()) if steps else ())
        shown = f" has {named[1:]} {value!r:.60}" if steps else ""
        raise StoreError(f"{what}{shown}: {expected}") from None


def _steps_to(values: Any, kind: Any, path: str) -> list[str | int]:
    """The names and indices of a path; `[...]` becomes the first key with a wrong value."""
    steps: list[str | int] = []
    for name, index in _STEP.findall(path):
        if index != "...":
            steps.append(name or int(index))
            continue
        inner = functools.reduce(operator.getitem, steps, values)
        keys = (key for key in inner if kind_problem(_with_only(values, steps, key), kind))
        steps.append(next(keys, "?"))
    return steps


def _with_only(values: Any, steps: Sequence[str | int], key: str) -> Any:
    """A copy of the values in which the object at `steps` has a single entry."""
    if not steps:
        return {key: values[key]}
    copy = values.copy()
    copy[steps[0]] = _with_only(values[steps[0]], steps[1:], key)
    return copy
