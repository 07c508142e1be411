"""Facts of many records as columns, so that what must be equal is compared as tuples.

`RecordColumns` is the entry; `Rule` is a fact that must have one value in each of its places. Every
column is computed once and has the order of the records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from fewshot_bench.api.record import Record

Take = Callable[[Record], Any]
Place = tuple[Hashable, ...]


class Shared(NamedTuple):
    """A fact of the values of another column, which records of a store mostly share."""

    column: str
    fact: Callable[[Any], Any]


Facts = Mapping[str, Take | Shared]


class RecordColumns:
    """The columns of these records by name.

    A name is one of `facts`, or `part.entry` (`environment.threads`), or a field of the
    specification.
    """

    def __init__(self, records: Sequence[Record], facts: Facts) -> None:
        self.records = records
        self._facts = dict(facts)
        self._known: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
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
        """Read the entries that these facts are of, those of one field together."""
        fields: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for name in names:
            while isinstance(fact := self._facts.get(name), Shared):
                name = fact.column
            field, dot, entry = name.partition(".")
            if dot and name not in self._known:
                fields[field][entry] = None
        for field, entries in fields.items():
            values = map(attrgetter(field), self.records)
            lines = [[one.get(entry) for entry in entries] for one in values]
            for place, entry in enumerate(entries):
                self._known[f"{field}.{entry}"] = [line[place] for line in lines]

    def _column(self, name: str) -> list[Any]:
        fact = self._facts.get(name)
        if isinstance(fact, Shared):
            values = self[fact.column]
            # All of them are there until the end, so that no two have one id.
            facts = {id(one): fact.fact(one) for one in {id(one): one for one in values}.values()}
            return [facts[id(one)] for one in values]
        if fact is not None:
            return list(map(fact, self.records))
        field, dot, entry = name.partition(".")
        if dot:
            return [record.entry(field, entry) for record in self.records]
        return list(map(attrgetter(f"spec.{name}"), self.records))


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
