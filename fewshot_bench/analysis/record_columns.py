"""Columnar view of many records, in which equality checks compare tuples.

`RecordColumns` is the entry; a `Rule` is a fact that must have a single value in each place. Every
column is computed once and follows the order of the records.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from fewshot_bench.api.record import Record

Take = Callable[[Record], Any]
Place = tuple[Hashable, ...]


def distinct(values: Iterable[Any]) -> Collection[Any]:
    """Deduplicate by identity, which is cheap: records of a store share equal objects."""
    return {id(value): value for value in values}.values()


class Constant(Sequence[Any]):
    """A column with one value. Most facts have one everywhere, and lists would fill the memory."""

    __slots__ = ("_count", "_value")

    def __init__(self, value: Any, count: int) -> None:
        self._value, self._count = value, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._value, self._count)

    def __getitem__(self, index: Any) -> Any:
        chosen = range(self._count)[index]
        return [self._value] * len(chosen) if isinstance(chosen, range) else self._value


def _compact(values: Sequence[Any]) -> Sequence[Any]:
    """The column, as a `Constant` if all of its values are one object."""
    if isinstance(values, Constant) or not values or values[0] is not values[-1]:
        return values
    return Constant(values[0], len(values)) if len(set(map(id, values))) == 1 else values


class Shared(NamedTuple):
    """A fact derived from another column, computed once per distinct value object."""

    column: str
    fact: Callable[[Any], Any]


class Joint(NamedTuple):
    """A fact derived from several columns, row by row."""

    columns: tuple[str, ...]
    fact: Callable[..., Any]


class Stated(NamedTuple):
    """True for records that have an entry of a field, whatever its value."""

    entry: str


Fact = Take | Shared | Joint | Stated
# Marks an absent entry; no record can contain this object.
_ABSENT = object()
Facts = Mapping[str, Fact]


class RecordColumns:
    """Columns of these records, computed on first access and cached by name.

    A name is a key of `facts`, a `part.entry` of the record (`environment.threads`), or a field of
    its `RunSpec`.
    """

    def __init__(self, records: Sequence[Record], facts: Facts) -> None:
        self.records = records
        self._facts = dict(facts)
        self._known: dict[str, Sequence[Any]] = {}

    def __getitem__(self, name: str) -> Sequence[Any]:
        if name not in self._known:
            self._known[name] = _compact(self._column(name))
        return self._known[name]

    def add(self, facts: Facts) -> None:
        """Register further facts."""
        self._facts |= facts

    def rows(self, names: Iterable[str]) -> Iterable[Place]:
        """Values of the named columns, one tuple per record."""
        return zip(*(self[name] for name in names), strict=True)

    def load(self, names: Iterable[str]) -> None:
        """Load the source columns of these facts, all entries of one field in a single read."""
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
                self._known[f"{field}.{entry}" if field else entry] = _compact(column)

    def _sources(self, names: Iterable[str]) -> Iterator[str]:
        """Resolve derived facts to the columns that they are ultimately computed from."""
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
            if isinstance(values, Constant):
                return Constant(fact.fact(values[0]), len(values))
            # `values` keeps every object alive, so no two of them share an id.
            facts = {id(one): fact.fact(one) for one in distinct(values)}
            return [facts[id(one)] for one in values]
        if isinstance(fact, Joint):
            columns = [self[column] for column in fact.columns]
            if all(isinstance(column, Constant) for column in columns):
                return Constant(fact.fact(*(column[0] for column in columns)), len(self.records))
            return list(map(fact.fact, *columns))
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
    """A fact that must have a single value in each place.

    name: the fact. place: columns whose values identify a place. value: the column of the fact.
    needs: columns that must all be truthy, otherwise the record is ignored.
    """

    name: str
    place: tuple[str, ...]
    value: str
    needs: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that the rule reads."""
        return (*self.place, self.value, *self.needs)

    def differing(self, columns: RecordColumns) -> set[Place]:
        """Places that have several values."""
        # Most facts have one value everywhere; that is found without making rows.
        values = columns[self.value]
        if isinstance(values, Constant) or len(set(values)) < 2:
            return set()
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
