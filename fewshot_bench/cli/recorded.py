"""Values of `-o` for a method of a file, read by its records: no code of a store runs for a table.

`read_values` is the entry; `list_overrides` gives what a run with these values records.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewshot_bench.api.file_texts import LONG, show, split
from fewshot_bench.api.method import Hyperparameter, parse_value
from fewshot_bench.api.option_files import digest_file
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.variants import split_setting
from fewshot_bench.utils.errors import UsageError, unknown


def read_values(specs: Sequence[RunSpec], texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of each option in texts such as `rank=4,8`, of the types that cells record.

    UsageError for an option that no cell has, and for values of other types.
    """
    methods = sorted({spec.method for spec in specs})
    every = [{**spec.options, **spec.overrides} for spec in specs]
    values: dict[str, list[Any]] = {}
    for text in texts:
        owner, parameter, given = split_setting(text)
        if owner and owner not in methods:
            raise unknown("method", owner, methods, "only what is in the store can be compared")
        name = parameter.replace("-", "_")
        recorded = [options[name] for options in every if name in options]
        if not recorded:
            names = {option for options in every for option in options}
            step = "only what is in the store can be compared"
            raise unknown(f"hyper-parameter of {', '.join(methods)}", parameter, names, step)
        values[name] = list(dict.fromkeys(_read(methods[0], name, one, recorded) for one in given))
    return values


def list_overrides(
    specs: Sequence[RunSpec], values: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """The overrides of each combination of the values; a default is no override."""
    defaults = {
        name: spec.options[name]
        for spec in specs
        for name in values
        if name in spec.options and name not in spec.overrides
    }
    for combination in itertools.product(*values.values()):
        pairs = zip(values, combination, strict=True)
        yield {name: v for name, v in pairs if name not in defaults or defaults[name] != v}


def _read(method: str, name: str, text: str, recorded: Sequence[Any]) -> Any:
    if not any(split(value)[0] for value in recorded):
        kind = functools.reduce(operator.or_, dict.fromkeys(map(type, recorded)))
        return parse_value(method, Hyperparameter(name, kind, recorded[0], "", "", ""), text)
    try:
        digest = digest_file(Path(text))[:LONG] if Path(text).is_file() else ""
    except OSError as error:
        raise UsageError(f"{method}: '{text}' cannot be read: {error.strerror}") from error
    for value in recorded:
        file, own = split(value)
        if text in (str(value), show(value), file) or own == digest != "":
            return value
    raise unknown(f"file of {method}'s {name}", text, map(show, recorded), f"give -o {name}=FILE")
