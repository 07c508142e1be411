"""Columnar view of many records, in which equality checks compare the places of values.

`RecordColumns` is the entry; a `Rule` is a fact that must have a single value in each place. Every
column is computed once and follows the order of the records.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.frame import code_text, data_text, own_data_text
from fewshot_bench.analysis.table.columns import number
from fewshot_bench.analysis.table.table import STATED, Short, stated_marks
from fewshot_bench.api.image_facts import Overlap, images, shared_images, split_digest, test_images
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import IMPORTED, KEPT_MODEL, canonical_json, method_label, plain
from fewshot_bench.utils.text import digest_of

Codes = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
Take = Callable[[Record], Any]
Place = tuple[Hashable, ...]


class Coded(Sequence[Any]):
    """A column as its distinct values, and for each row the place of its value among them.

    Most facts have few values among many records: what is computed of a column, or compared, is
    computed of its values. Equal values of one type are one; what has no hash, as a dictionary, is
    compared by identity, since records of a store share equal objects.
    """

    __slots__ = ("codes", "values")

    def __init__(self, codes: Codes, values: Sequence[Any]) -> None:
        self.codes = codes
        self.values = values

    @classmethod
    def of(cls, column: Iterable[Any]) -> Coded:
        """The column with these values, one per row."""
        rows = column if isinstance(column, list | tuple) else list(column)
        # Most columns have one text everywhere.
        if rows and type(rows[0]) is str and rows.count(rows[0]) == len(rows):
            return cls(np.zeros(len(rows), np.uint8), [rows[0]])
        codes, objects = _identified(rows)
        return cls(codes, objects).mapped(lambda value: value)

    @classmethod
    def of_lines(cls, lines: Sequence[tuple[Any, ...]], width: int) -> list[Coded]:
        """The columns of these rows of `width` values, of which many are the same object."""
        codes, objects = _identified(lines)
        columns = zip(*objects, strict=True) if objects else [()] * width
        return [cls.of(column).taken(codes) for column in columns]

    def mapped(self, fact: Callable[[Any], Any]) -> Coded:
        """The column of a fact of the values."""
        places, values = _placed(map(fact, self.values))
        if len(values) == len(self.values):
            return Coded(self.codes, values)
        return Coded(_packed(places, len(values))[self.codes], values)

    def taken(self, places: Codes) -> Coded:
        """The column of some rows, or of all in another order."""
        return Coded(self.codes[places], self.values)

    def among(self, places: np.ndarray[Any, Any]) -> Coded:
        """As `taken`, with only the values of these rows, as if no other row were known."""
        codes = self.codes[places]
        firsts, own = _distinct(codes, len(self.values))
        values = [self.values[code] for code in codes[firsts].tolist()]
        return Coded(_packed(own, len(values)), values)

    def counted(self) -> Iterator[tuple[Any, int]]:
        """Each value, with the number of rows that have it."""
        counts = np.bincount(self.codes, minlength=len(self.values)).tolist()
        return zip(self.values, counts, strict=True)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.__getitem__, self.codes.tolist())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(Coded(self.codes[index], self.values))
        return self.values[self.codes[index]]


def _identified(rows: Sequence[Any]) -> tuple[Codes, list[Any]]:
    """The place of each row among the distinct objects, and these, in order."""
    objects = dict(zip(map(id, rows), rows, strict=True))
    place = dict(zip(objects, range(len(objects)), strict=True))
    return _packed(map(place.__getitem__, map(id, rows)), len(objects)), list(objects.values())


def _placed(values: Iterable[Any]) -> tuple[list[int], list[Any]]:
    """The place of each value among the distinct ones, and these."""
    places: dict[Hashable, int] = {}
    found: list[Any] = []
    order = []
    for value in values:
        try:
            place = places.setdefault((type(value), value), len(found))
        except TypeError:
            # `found` keeps every object alive, so no two of them share an id.
            place = places.setdefault(id(value), len(found))
        if place == len(found):
            found.append(value)
        order.append(place)
    return order, found


def _packed(codes: Iterable[int] | np.ndarray[Any, Any], count: int) -> Codes:
    """Numbers below `count` in little memory."""
    kind = np.uint8 if count <= 2**8 else np.uint32
    return np.asarray(codes, kind) if isinstance(codes, np.ndarray) else np.fromiter(codes, kind)


def _joined(columns: Sequence[Coded], rows: int) -> Coded:
    """The column of the tuples of these columns' values."""
    firsts, codes = _lines([column for column in columns if len(column.values) > 1], rows)
    parts = [column.taken(firsts) for column in columns]
    values = list(zip(*parts, strict=True)) if parts else [()] * len(firsts)
    return Coded(codes, values)


def _lines(columns: Sequence[Coded], rows: int) -> tuple[Codes, Codes]:
    """The first row of each distinct line of these columns, and the place of each row's line."""
    lines, count = np.zeros(rows, np.int64), 1
    for column in columns:
        if count > rows:
            # Numbers of lines stay below the square of the number of rows.
            firsts, lines = _distinct(lines, count)
            count = len(firsts)
        lines = lines * len(column.values) + column.codes
        count *= len(column.values)
    firsts, places = _distinct(lines, count)
    return firsts, _packed(places, len(firsts))


def _distinct(
    numbers: np.ndarray[Any, Any], count: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first row of each distinct number, in order, and the place of each row's number.

    numbers: (rows,), below `count`.
    """
    rows = len(numbers)
    if count > 16 * rows:
        # Sorting is slow, but a table of this size would be more so.
        values, numbers = np.unique(numbers, return_inverse=True)
        count = len(values)
    first = np.full(count, rows)
    # The last value that is assigned stays.
    first[numbers[::-1]] = np.arange(rows)[::-1]
    firsts = np.sort(first[first < rows])
    places = np.zeros(count, np.int64)
    places[numbers[firsts]] = np.arange(len(firsts))
    return firsts, places[numbers]


class Shared(NamedTuple):
    """A fact derived from another column, computed once per distinct value."""

    column: str
    fact: Callable[[Any], Any]


class Joint(NamedTuple):
    """A fact derived from several columns, computed once per distinct row of them."""

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
        self._known: dict[str, Coded] = {}
        self._rows: dict[tuple[str, ...], Coded] = {}
        self._places: dict[int, int] = {}
        # Columns of more records, or of these in another order, and the places of these.
        self._source: tuple[Mapping[str, Coded], np.ndarray[Any, Any]] = {}, np.zeros(0, np.uint32)

    def __getitem__(self, name: str) -> Coded:
        if name not in self._known:
            known, order = self._source
            column = known[name].among(order) if name in known else self._column(name)
            self._known[name] = column
        return self._known[name]

    def places(self, records: Iterable[Record]) -> Codes:
        """The places of some of the records, the objects themselves."""
        if not self._places:
            self._places = {id(record): place for place, record in enumerate(self.records)}
        places = [self._places[id(record)] for record in records]
        return _packed(places, len(self._places))

    def add(self, facts: Facts) -> None:
        """Register further facts."""
        self._facts |= facts

    def rows(self, names: Iterable[str]) -> Coded:
        """The tuples of the named columns' values as one column."""
        names = tuple(names)
        if names not in self._rows:
            columns = [self[name] for name in names]
            self._rows[names] = _joined(columns, len(self.records))
        return self._rows[names]

    def members(self, records: Iterable[Record]) -> Members:
        """Some of the records, the objects themselves."""
        return Members(self, self.places(records))

    def having(self, test: Callable[..., object], *names: str) -> Members:
        """The records whose values of the named columns pass a test."""
        column = self[names[0]] if len(names) == 1 else self.rows(names)
        values = ((value,) for value in column.values) if len(names) == 1 else column.values
        passing = np.array([bool(test(*value)) for value in values], bool)
        return Members(self, np.flatnonzero(passing[column.codes]))

    def sorted(self, names: Sequence[str]) -> RecordColumns:
        """The columns of the same records in the order of these columns' values."""
        ranks = []
        for name in names:
            column = self[name]
            rank = {value: place for place, value in enumerate(sorted(column.values))}
            places = [rank[value] for value in column.values]
            ranks.append(_packed(places, len(rank))[column.codes])
        return self.part(_packed(np.lexsort(ranks[::-1]), len(self.records)))

    def part(self, places: np.ndarray[Any, Any]) -> RecordColumns:
        """The columns of the records at these places."""
        made = RecordColumns(list(map(self.records.__getitem__, places.tolist())), self._facts)
        made._source = self._known, places
        return made

    def load(self, names: Iterable[str]) -> None:
        """Load the source columns of these facts, all entries of one field in a single read."""
        fields: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for name in self._sources(names):
            field, _, entry = name.partition(".") if "." in name else ("", "", name)
            known = name in self._known or name in self._source[0]
            if not known and name not in self._facts:
                fields[field][entry] = None
        for field, entries in fields.items():
            if field:
                lines = Record.entries(self.records, field, *entries)
                columns = Coded.of_lines(lines, len(entries))
            else:
                specs = [record.spec for record in self.records]
                columns = [Coded.of(list(map(attrgetter(name), specs))) for name in entries]
            for entry, column in zip(entries, columns, strict=True):
                self._known[f"{field}.{entry}" if field else entry] = column

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

    def _column(self, name: str) -> Coded:
        fact = self._facts.get(name)
        if isinstance(fact, Shared):
            return self[fact.column].mapped(fact.fact)
        if isinstance(fact, Joint):
            return self.rows(fact.columns).mapped(lambda row: fact.fact(*row))
        if isinstance(fact, Stated):
            field, _, entry = fact.entry.partition(".")
            found = Record.entries(self.records, field, entry, absent=_ABSENT)
            return Coded.of([value is not _ABSENT for (value,) in found])
        if fact is not None:
            return Coded.of(list(map(fact, self.records)))
        self.load((name,))
        return self._known[name]


class Members(Sequence[Record]):
    """Some of the records of columns, in the order of their places."""

    def __init__(self, columns: RecordColumns, places: np.ndarray[Any, Any]) -> None:
        self._columns = columns
        self._places = places

    def distinct(self, name: str) -> list[Any]:
        """The distinct values of a column."""
        column = self._columns[name]
        return [column.values[code] for code in np.unique(column.codes[self._places]).tolist()]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Record]:
        return map(self._columns.records.__getitem__, self._places.tolist())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Members(self._columns, self._places[index])
        return self._columns.records[self._places[index]]


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

    def conflicts(self, columns: RecordColumns) -> Iterator[tuple[Record, Place, str]]:
        """The records in places that have several values, with place and value."""
        values = columns[self.value]
        # Most facts have one value everywhere.
        if len(values.values) < 2:
            return
        places, needs = columns.rows(self.place), columns.rows(self.needs)
        is_needed = np.array(list(map(all, needs.values)), bool)[needs.codes]
        firsts, lines = _lines((places, values), len(is_needed))
        kept = np.bincount(lines[is_needed], minlength=len(firsts)) > 0
        counts = np.bincount(places.codes[firsts[kept]], minlength=len(places.values))
        differing = np.flatnonzero(is_needed & (counts > 1)[places.codes])
        for row in differing.tolist():
            yield columns.records[row], places[row], str(values[row])


def _templates(kept: bool, found: object) -> str:
    return digest_of(templates_text(found), 12) if found and not kept else ""


def templates_text(found: object) -> str:
    """The templates of a cell as JSON; empty if it states none."""
    return canonical_json(plain(found)) if found else ""


def _comparable(found: object) -> object:
    return tuple(found) if isinstance(found, list) else found


def _loaded_weights(done: bool, named: str, loaded: object) -> str:
    return str(loaded or "") if done and not named else ""


def _published_setting(published: bool, dataset: str, shots: int, classes: str) -> str:
    return f"{dataset} {shots} {classes == 'all'}" if published else ""


def _row_name(method: str, version: str, overrides: Mapping[str, Any]) -> str:
    return method_label(f"{method}@{version}", overrides)


def _short_classes(split: Mapping[str, Any]) -> Short:
    classes = split.get("fitted_classes") or split.get("classes")
    values = (split.get("short_classes"), classes, *map(split.get, ("smallest_class", "short_val")))
    return Short(*(int(number(value) or 0) for value in values))


# Columns that are not fields of `RunSpec`.
FACTS: Facts = {
    "row": Joint(("method", "method_version", "overrides"), lambda *parts: _row_name(*parts)),
    "label": Joint(("method", "overrides"), method_label),
    "own data": Joint(("data", "dataset"), own_data_text),
    "data text": Shared("data", data_text),
    "options text": Shared("options", canonical_json),
    "published setting": Joint(
        ("published", "dataset", "shots", "classes"), lambda *of: _published_setting(*of)
    ),
    "split facts": attrgetter("split"),
    "split": Shared("split facts", split_digest),
    "split start": Shared("split", itemgetter(slice(12))),
    "images": Shared("split facts", images),
    "images start": Shared("images", itemgetter(slice(12))),
    "test images": Shared("split facts", test_images),
    "test images start": Shared("test images", itemgetter(slice(12))),
    "data values": Shared("data", lambda data: canonical_json(dict(data)) if data else ""),
    "code": Shared("environment.code", code_text),
    "model": Shared("picks", itemgetter(slice(12))),
    "imported picks": Joint(("protocol", "model"), lambda *own: own[1] * (own[0] == IMPORTED)),
    "loaded weights": Joint(("done", "weights", "environment.weights_digest"), _loaded_weights),
    "loaded weights start": Shared("loaded weights", itemgetter(slice(12))),
    "status": attrgetter("status"),
    "stated marks": Joint(tuple(entry for entry, *_ in STATED), stated_marks),
    "shared images": Shared("split facts", shared_images),
    "verified": Shared("split facts", lambda split: split.get("verified")),
    "short": Shared("split facts", _short_classes),
    # Only finished cells have numbers that could be mixed.
    "done": Shared("status", "done".__eq__),
    "kept model": Shared("protocol", KEPT_MODEL.__eq__),
    "template texts": Shared("split.templates", _comparable),
    "templates digest": Joint(("kept model", "template texts"), _templates),
}


def overlaps_of(columns: RecordColumns) -> Counter[Overlap]:
    """The number of records with each overlap of images. columns: `columns_of` the records."""
    found = columns.rows(("evaluated", "shared images")).counted()
    return Counter({Overlap(evaluated, *pair): n for (evaluated, pair), n in found if pair})


def columns_of(records: Sequence[Record]) -> RecordColumns:
    """The columns that tables compare."""
    return RecordColumns(records, FACTS)


LEGACY_TEST_SET = ("evaluated", "limit", "revision", "target_revision", "data values")
