"""Errors for users: each message contains the value, the expectation, and the next step.

Checks of values that plug-in authors may mistype raise `ContractError` where these are created;
`require` imports a package of an optional extra.
"""

from __future__ import annotations

import difflib
import importlib
import operator
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from fewshot_bench.utils.text import LONGEST_MESSAGE, printable


class FsbenchError(Exception):
    """Base class of all deliberate errors; `exit_code` is the exit code of the CLI.

    Its text is one printable line, even with names and values from untrusted files.

    >>> with contextlib.suppress(FsbenchError): run("clip-lra", "digits")
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__(), LONGEST_MESSAGE)


class UsageError(FsbenchError):
    """An invalid request (unknown name, value out of range).

    >>> raise UsageError("rank=0: expected at least 1")
    """

    exit_code = 2


class WrongTypeError(UsageError, TypeError):
    """An argument of a type that a function of the library does not take."""


class DataMissingError(FsbenchError):
    """Required images, split files or weights are missing or unreadable.

    >>> raise DataMissingError(f"{folder} does not exist: fetch it first")
    """

    exit_code = 3


class UnsupportedBackboneError(FsbenchError):
    """A method needs a part (a transformer text tower, say) that the backbone lacks.

    >>> raise UnsupportedBackboneError("needs a transformer as text tower")
    """

    exit_code = 2


class ContractError(FsbenchError):
    """A plug-in broke its contract: wrong shapes, non-finite logits, a backbone left changed.

    >>> raise ContractError("logits: expected (queries, classes), got (10, 3)")
    """


class NumericalError(FsbenchError):
    """A loss, a gradient or a solver's result is not finite, so that a fit cannot continue.

    >>> raise NumericalError("the loss is nan at step 12: lower lr")
    """


class InsufficientMemoryError(FsbenchError):
    """A cell does not fit into memory, even with `memory_parts` if its method supports them."""


class NotApplicableError(FsbenchError):
    """The method does not apply to this cell; tables show the reason, never a number.

    >>> raise NotApplicableError("needs at least 2 shots")
    """


class PluginError(FsbenchError):
    """A plug-in cannot be loaded, or two plug-ins claim one name."""

    exit_code = 2


class StoreError(FsbenchError):
    """A record cannot be written, or a stored file is damaged."""


class ModelMissingError(StoreError, DataMissingError):
    """A folder of a kept model does not exist, or holds no model."""


def explain_denial(error: PermissionError) -> str:
    """The text for a file or folder that this user may not read, with the next step."""
    return f"'{error.filename}': permission denied; make it readable for this user"


def suggestion(value: str, names: Iterable[str]) -> str:
    """The closest known name as ": did you mean 'x'?"; empty if none is similar.

    Similar names contain the value, have the same letters, or share two thirds of them.
    """
    folded = {_fold(name): name for name in sorted(set(names))}
    asked = _fold(value)
    alike = [
        name
        for name in folded
        if (len(asked) >= _SHORT and asked in name) or sorted(asked) == sorted(name)
    ]
    least = 0.0 if alike else 2 / 3 if len(asked) > _SHORT else 0.5
    close = difflib.get_close_matches(asked, alike or list(folded), n=1, cutoff=least)
    return f": did you mean '{folded[close[0]]}'?" if close else ""


# Letters of a word so short that one wrong letter is a large share of it.
_SHORT = 3


def _fold(name: str) -> str:
    return name.casefold().replace("_", "-").replace("/", "-")


def unknown(kind: str, value: str, names: Iterable[str], next_step: str) -> UsageError:
    """The error for an unknown name, with a suggestion and the next step."""
    names = sorted(set(names))
    hint = suggestion(value, names)
    if not hint:
        hint = f": expected one of {', '.join(names)}" if 0 < len(names) <= 12 else ""
    return UsageError(f"unknown {kind} '{value}'{hint} ({next_step})")


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


def one_of(where: str, value: object, names: Iterable[str]) -> None:
    """ContractError with the closest name unless `value` is among the known ones."""
    names = tuple(names)
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


def keys(where: str, values: Mapping[Any, object], names: Iterable[str]) -> None:
    """ContractError if `values` is no mapping; with the closest name for an unknown key."""
    names = tuple(names)
    if not isinstance(values, Mapping):
        raise ContractError(f"{where} is {values!r:.80}, expected a mapping of {', '.join(names)}")
    for key in values:
        one_of(f"{where}: a name in it", key, names)


def indices(where: str, values: Any, count: int) -> list[int]:
    """Indices into `count` images from a tensor or sequence; ContractError for other values."""
    try:
        numbers = list(values.tolist() if hasattr(values, "tolist") else values)
        listed = [operator.index(value) for value in numbers]
    except TypeError:
        raise ContractError(f"{where} is {values!r:.80}, expected indices of images") from None
    if any(isinstance(value, bool) for value in numbers):
        raise ContractError(f"{where} holds truth values, expected indices: mask.nonzero()[:, 0]")
    wrong = [index for index in listed if not -count <= index < count]
    if wrong:
        raise ContractError(f"{where} holds {wrong[0]}, and there are {count} images")
    return listed


def require(package: str, extra: str, what: str, instead: str = "") -> Any:
    """Import a package; if it is missing, UsageError names the feature and the extra to install.

    what: the feature that needs the package. instead: an alternative without it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        other = f", or {instead}" if instead else ""
        raise UsageError(
            f"{what} needs {package}, which is not installed: "
            f"pip install 'fewshot-bench[{extra}]'{other}"
        ) from None
