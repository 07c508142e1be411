"""Filters: which records go into a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from fewshot_bench.compare.mixing import CONDITIONS, condition
from fewshot_bench.compare.model import Seed
from fewshot_bench.errors import UsageError, unknown
from fewshot_bench.record import Record

_COMMA = re.compile(r",(?![^\[\]]*\])")
_NAMES: Mapping[str, Callable[[Record], tuple[str, ...]]] = {
    "method": lambda record: (record.spec.method, record.spec.label),
    "dataset": lambda record: (record.spec.dataset,),
    "shots": lambda record: (str(record.spec.shots),),
    "seeds": lambda record: (str(Seed(record.spec.split_seed, record.spec.train_seed)),),
}
_KINDS = {"method": "method", "dataset": "data set", "shots": "number of shots", "seeds": "seed"}


def select(
    records: Sequence[Record],
    names: Mapping[str, str | None],
    conditions: Mapping[str, str | None],
) -> list[Record]:
    """The records that match every filter; UsageError for a value that no record has.

    names: comma lists for `method`, `dataset`, `shots` and `seeds`; conditions: one value each
    for the table's conditions, a prefix being enough for `weights` and `revision`.
    """
    tests = [_by_name(records, kind, text) for kind, text in names.items() if text]
    tests += [_by_condition(records, name, text) for name, text in conditions.items() if text]
    chosen = [record for record in records if all(test(record) for test in tests)]
    if records and not chosen:
        given = {**names, **conditions}
        asked = ", ".join(f"--{name} {text}" for name, text in given.items() if text)
        raise UsageError(f"no record matches {asked} together; leave out one of them")
    return chosen


def split_list(text: str, known: Iterable[str]) -> list[str]:
    """The names in a comma list; commas inside brackets, or of a known name, do not separate."""
    if text in set(known):
        return [text]
    return [part.strip() for part in _COMMA.split(text) if part.strip()]


def order(names: str | None, found: Iterable[str]) -> list[str]:
    """`found` in the order of the comma list that asked for them, else sorted."""
    found = sorted(set(found))
    if not names:
        return found
    wanted = split_list(names, found)
    return sorted(found, key=lambda name: wanted.index(name) if name in wanted else len(wanted))


def _by_name(records: Sequence[Record], kind: str, text: str) -> Callable[[Record], bool]:
    of = _NAMES[kind]
    known = {name for record in records for name in of(record)}
    wanted = split_list(text, known)
    for name in wanted:
        if name not in known:
            raise unknown(_KINDS[kind], name, known, "only what is in the store can be compared")
    return lambda record: not wanted or any(name in wanted for name in of(record))


def _by_condition(records: Sequence[Record], name: str, text: str) -> Callable[[Record], bool]:
    prefix = name in ("weights", "revision")

    def matches(record: Record) -> bool:
        value = condition(record.spec, name)
        return value.startswith(text) if prefix else value == text

    if not any(map(matches, records)):
        known = {condition(record.spec, name) for record in records}
        raise unknown(name, text, known, "only what is in the store can be compared")
    return matches


FILTERS = (*CONDITIONS, "revision")
