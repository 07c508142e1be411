"""Checks of values that plug-in authors may mistype; ContractError where they are created."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from fewshot_bench.utils.errors import ContractError, suggestion

# Names in other libraries, and the corresponding names here.
_ALSO = {
    "image": "vision",
    "visual": "vision",
    "language": "text",
    "query": "q",
    "key": "k",
    "value": "v",
    "out": "o",
    "out_proj": "o",
    "c_fc": "fc",
    "fc1": "fc",
    "c_proj": "proj",
    "fc2": "proj",
    "valid": "val",
    "validation": "val",
    "training": "train",
    "testing": "test",
}


def one_of(where: str, value: object, known: Iterable[str]) -> None:
    """ContractError with the closest name unless `value` is among the known ones."""
    names = tuple(known)
    if isinstance(value, str) and value in names:
        return
    also = _ALSO.get(str(value).casefold(), "")
    hint = f": did you mean '{also}'?" if also in names else suggestion(str(value), names)
    raise ContractError(f"{where} is {value!r}{hint or ','} expected one of {', '.join(names)}")


def whole_number(where: str, value: object, least: int) -> int:
    """The value as an int; ContractError unless it is a whole number of at least `least`."""
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise ContractError(f"{where} is {value!r}, expected a whole number from {least}")


def number_range(where: str, value: object, most: float) -> tuple[float, float]:
    """The value as (low, high) with 0 < low <= high <= `most`; ContractError for anything else."""
    pair = tuple(value) if isinstance(value, tuple | list) else ()
    if len(pair) == 2 and all(isinstance(v, Real) and not isinstance(v, bool) for v in pair):
        low, high = float(pair[0]), float(pair[1])
        if 0 < low <= high <= most:
            return low, high
    bound = f" up to {most:g}" if most < float("inf") else ""
    raise ContractError(f"{where} is {value!r}, expected (low, high), both above 0{bound}")


def probability(where: str, value: object) -> float:
    """The value as a float; ContractError unless it is a number from 0 to 1."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1:
        return float(value)
    raise ContractError(f"{where} is {value!r}, expected a probability from 0 to 1 (0.5, say)")


def texts(where: str, values: object, *, contain: str = "") -> None:
    """ContractError unless `values` is an iterable of strings that all contain `contain`."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ContractError(f"{where} is {values!r:.80}, expected several texts: ({values!r:.80},)")
    for value in values:
        if not isinstance(value, str) or contain not in value:
            what = f" with {contain}" if contain else ""
            raise ContractError(f"{where} has {value!r:.80}, expected a text{what}")


def keys(where: str, values: Mapping[Any, object], known: Iterable[str]) -> None:
    """ContractError with the closest name for an unknown key."""
    names = tuple(known)
    for key in values:
        one_of(f"{where}: a name in it", key, names)


def indices(where: str, values: Any, count: int) -> list[int]:
    """Indices into `count` images from a tensor or sequence; ContractError for other values."""
    try:
        found = list(values.tolist() if hasattr(values, "tolist") else values)
        listed = [operator.index(value) for value in found]
    except TypeError:
        raise ContractError(f"{where} is {values!r:.80}, expected indices of images") from None
    if any(isinstance(value, bool) for value in found):
        raise ContractError(f"{where} holds truth values, expected indices: mask.nonzero()[:, 0]")
    wrong = [index for index in listed if not -count <= index < count]
    if wrong:
        raise ContractError(f"{where} holds {wrong[0]}, and there are {count} images")
    return listed
