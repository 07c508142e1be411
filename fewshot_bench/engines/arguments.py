"""`ARGUMENTS` of `fewshot_bench.run`, each with the kind of its values, from `RUN_OPTIONS`.

Only types and ranges are checked here; the plan checks names and combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fewshot_bench.api.options import RUN_OPTIONS, RunOption
from fewshot_bench.api.spec import ALL_SHOTS, WORD
from fewshot_bench.runner.variants import Option
from fewshot_bench.utils.arguments import (
    FLAG,
    FOLDER,
    Kind,
    names,
    number,
    optional,
    several,
    text,
    whole,
    wholes,
    word,
)
from fewshot_bench.utils.text import SIZES, read_size, split_names


def _shots(value: Any) -> int:
    return ALL_SHOTS if value in (WORD, ALL_SHOTS) else whole(1).read(value)


def _methods(value: Any) -> tuple[Any, ...]:
    given = (value,) if isinstance(value, str | type) or _is_method(value) else value
    methods = tuple(
        part for each in given for part in (split_names(each) if isinstance(each, str) else (each,))
    )
    if not methods:
        raise ValueError
    return methods


def _is_method(value: object) -> bool:
    return callable(getattr(value, "fit", None))


def _options(value: Any) -> tuple[Option, ...]:
    name, values = text("").read, several("", lambda each: each)
    if isinstance(value, Mapping):
        return tuple((name(key), values.read(given)) for key, given in value.items())
    return tuple(several("", name, 0).read(value))


_KINDS: Mapping[str, Callable[[RunOption], Kind]] = {
    "methods": lambda row: Kind("at least one name, class or object of a method", _methods),
    "names": lambda row: names(row.names, int(row.least)),
    "shots": lambda row: several(f"whole numbers from 1, or '{WORD}'", _shots),
    "numbers": lambda row: wholes(int(row.least)),
    "number": lambda row: whole(int(row.least)),
    "limit": lambda row: whole(int(row.least)),
    "count": lambda row: whole(int(row.least), row.most),
    "settings": lambda row: Kind(
        "a mapping such as {'rank': 4}, or texts such as 'rank=4'", _options
    ),
    "texts": lambda row: several("prompts or files of them", text("").read, 0),
    "text": lambda row: text("a name"),
    "word": lambda row: text("a name") if row.scope == "condition" else word(*row.words),
    "flag": lambda row: FLAG,
    "store": lambda row: FOLDER,
    "share": lambda row: number("a number between 0 and 1", lambda share: 0 < share < 1),
    "above": lambda row: number(
        f"a number of seconds above {row.least:g}", lambda value: value > row.least
    ),
    "seconds": lambda row: number(
        f"a number of seconds from {row.least:g}", lambda value: value >= row.least
    ),
    "size": lambda row: Kind(SIZES, read_size),
}


def _kind(row: RunOption) -> Kind:
    kind = _KINDS[row.kind](row)
    return kind if row.required or row.default is not None else optional(kind)


# Every argument of `run` except `classnames` and options declared by engines and plug-ins.
ARGUMENTS: Mapping[str, Kind] = {
    **{name: _kind(row) for name, row in RUN_OPTIONS.items() if row.kind != "own"},
    "progress": optional(FLAG),
}
