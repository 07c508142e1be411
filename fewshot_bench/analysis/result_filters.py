"""Filter values of `Results.where`: names, classes and objects of methods, options.

`words_of` converts them to the notation of `fsbench compare`; `of_methods` filters by objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from fewshot_bench.api.method import changed_options
from fewshot_bench.api.method_files import short
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import method_label
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import join_names

_STEP = "only what is in the store can be compared"


def several(value: Any) -> tuple[Any, ...]:
    """One value or several as a tuple."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def words_of(value: Any) -> str:
    """Values in the notation of `fsbench compare`: `1,4`, `none`."""
    if isinstance(value, str):
        return value
    return join_names(_word(one) for one in several(value))


def is_method_object(value: Any) -> bool:
    """True for an object of a method's class."""
    return is_dataclass(value) and not isinstance(value, type)


def of_methods(records: Sequence[Record], methods: Sequence[Any]) -> Sequence[Record]:
    """The records of these methods; an object matches only records with its option values.

    UsageError for a method that no record has.
    """
    from fewshot_bench.analysis.filters import select

    keys = set()
    for one in methods:
        if is_method_object(one):
            label = _word(one)
            found = [record for record in records if _label(record) == label]
            if not found:
                raise unknown("method", label, map(_label, records), _STEP)
        else:
            found = select(records, {"method": _word(one)}, {})
        keys |= {record.spec.key() for record in found}
    return [record for record in records if record.spec.key() in keys]


def with_options(records: Sequence[Record], asked: Any) -> Sequence[Record]:
    """The records with these hyper-parameters; UsageError for a name or value that none has."""
    if not isinstance(asked, Mapping):
        raise UsageError(f"options={asked!r}: expected a mapping such as {{'rank': 4}}")
    for name, values in asked.items():
        known = {option for record in records for option in record.spec.options}
        if name not in known:
            raise unknown("hyper-parameter", str(name), known, _STEP)
        records = [record for record in records if name in record.spec.options]
        found = [record.spec.options[name] for record in records]
        for value in several(values):
            if value not in found:
                raise unknown(f"value of {name}", str(value), map(str, found), _STEP)
        records = [record for record in records if record.spec.options[name] in several(values)]
    return records


def _label(record: Record) -> str:
    return method_label(short(record.spec.method), record.spec.overrides)


def _word(value: Any) -> str:
    if isinstance(value, type):
        # A method of a notebook is stored in a file of its own.
        return registry().name_of(value) or f"{value.__name__}.py:{value.__name__}"
    if is_method_object(value):
        return method_label(short(_word(type(value))), changed_options(value))
    return "none" if value is None else str(value)
