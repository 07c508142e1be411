"""Facts of many records as columns, so that what must be equal is compared as tuples.

`RecordColumns` is the entry; `Rule` is a fact that must have one value in each of its places. Every
column is computed once and has the order of the records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from fewshot_bench.api.record import Record

Take = Callable[[Record], Any]
Place = tuple[Hashable, ...]


def distinct(values: Iterable[Any]) -> Collection[Any]:
    """Each object once; records of a store share what is equal."""
    return {id(value): value for value in values}.values()


class Shared(NamedTuple):
    """A fact of the values of another column, which records of a store mostly share."""

    column: str
    fact: Callable[[Any], Any]


class Joint(NamedTuple):
    """A fact of the values of several columns."""

    columns: tuple[str, ...]
    fact: Callable[..., Any]


class Stated(NamedTuple):
    """True for records that have an entry of a field, whatever its value."""

    entry: str


Fact = Take | Shared | Joint | Stated
# Stands for an entry that is not there; no record has it.
_ABSENT = object()
Facts = Mapping[str, Fact]


class RecordColumns:
    """The columns of these records by name.

    A name is one of `facts`, or `part.entry` (`environment.threads`), or a field of the
    specification.
    """

    def __init__(self, records: Sequence[Record], facts: Facts) -> None:
        self.records = records
        self._facts = dict(facts)
        self._known: dict[str, Sequence[Any]] = {}

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._known:
            self._known[name] = self._column(name)
        return self._known[name]

    def add(self, facts: Facts) -> None:
        """Further facts."""
        self._facts |= facts

    def rows(self, names: Iterable[str]) -> Iterable[Place]:
        """One tuple for each record."""
        return zip(*(self[name] for name in names), strict=True)

    def load(self, names: Iterable[str]) -> None:
        """Read what these facts are of, the entries of one field together."""
        fields: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for name in self._sources(names):
            field, _, entry = name.partition(".") if "." in name else ("", "", name)
            if name not in self._known and name not in self._facts:
                fields[field][entry] = None
        for field, entries in fields.items():
            if field:
                lines: Iterable[Any] = Record.entries(self.records, field, *entries)
            else:
                take = attrgetter(*entries)
                lines = (take(record.spec) for record in self.records)
                lines = lines if len(entries) > 1 else ((value,) for value in lines)
            columns = list(zip(*lines, strict=True)) or [()] * len(entries)
            for entry, column in zip(entries, columns, strict=True):
                self._known[f"{field}.{entry}" if field else entry] = column

    def _sources(self, names: Iterable[str]) -> Iterator[str]:
        """The columns that others are made of, in the end."""
        for name in names:
            fact = self._facts.get(name)
            if isinstance(fact, Shared):
                yield from self._sources((fact.column,))
            elif isinstance(fact, Joint):
                yield from self._sources(fact.columns)
            elif not isinstance(fact, Stated):
                yield name

    def _column(self, name: str) -> Sequence[Any]:
        fact = self._facts.get(name)
        if isinstance(fact, Shared):
            values = self[fact.column]
            # All of them are there until the end, so that no two have one id.
            facts = {id(one): fact.fact(one) for one in distinct(values)}
            return [facts[id(one)] for one in values]
        if isinstance(fact, Joint):
            return list(map(fact.fact, *(self[column] for column in fact.columns)))
        if isinstance(fact, Stated):
            field, _, entry = fact.entry.partition(".")
            found = Record.entries(self.records, field, entry, absent=_ABSENT)
            return [value is not _ABSENT for (value,) in found]
        if fact is not None:
            return list(map(fact, self.records))
        self.load((name,))
        return self._known[name]


@dataclass(frozen=True, slots=True)
class Rule:
    """A fact with one value in each place.

    name: of the fact. place: columns that name a place. value: the column of its values. needs:
    columns without which a record stands in no place.
    """

    name: str
    place: tuple[str, ...]
    value: str
    needs: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All that it reads."""
        return (*self.place, self.value, *self.needs)

    def differing(self, columns: RecordColumns) -> set[Place]:
        """Places that have several values."""
        width = len(self.place)
        rows = set(columns.rows(self.columns))
        pairs = {row[: width + 1] for row in rows if all(row[width + 1 :])}
        counts = Counter(pair[:width] for pair in pairs)
        return {place for place, count in counts.items() if count > 1}

    def conflicts(self, columns: RecordColumns) -> Iterator[tuple[Record, Place, str]]:
        """The records in places that have several values, with place and value."""
        differing, width = self.differing(columns), len(self.place)
        if differing:
            for record, row in zip(columns.records, columns.rows(self.columns), strict=True):
                if row[:width] in differing and all(row[width + 1 :]):
                    yield record, row[:width], str(row[width])
