"""The SQLite file of what is derived from a store, in this machine's cache folder.

It holds the contents of records, so that listing opens none (`Index`), and the predictions of cells
(`predictions`); it may be deleted at any time. A row is believed only while its record has the
stamp under which it was read and checked; any other record is read from its own file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import defstruct

from fewshot_bench.api.record import SCHEMA, Record, encode_json, entry, parse_json
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.record_files import Stamp, pack_stamp, path_of, read_record
from fewshot_bench.utils.cache_dir import STORES, cache_root, is_shared
from fewshot_bench.utils.database import JOURNALS, Database
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged
from fewshot_bench.utils.version import __version__

# Texts that several records share, by their digest; a row per record; its predictions.
# `sum` is a checksum, since SQLite does not notice changed bytes.
TABLES = """
create table texts (digest blob primary key, text blob);
create table records (
    key text primary key, stamp blob, numbers blob, facts blob, split blob, own blob, sum integer,
    verified blob
);
create table outcomes (key text primary key, stamp blob, queries blob, content blob, sum integer)
"""
# Fewer new rows are not worth a file; more are written at once.
WORTH, MOST = 64, 2048
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# Numbers of a specification, in which most of the cells of a method differ.
_NUMBERS = ("shots", "split_seed", "train_seed")
_STATE = ("status", "error", "incidents")
# Fields in the text that a record has for itself. Of other fields, it has the entries named here;
# of these fields, other records share the entries named here.
_OWN = ("metrics", "footprint", "timings", "digests", "notes")
_OWN_ENTRY = {"environment": "load"}
_SHARED_ENTRY = {"footprint": "card"}
# A field of which that text has the names alone.
_CURVES = "curves"
# What the validity and the meaning of a row depend on.
_FIELDS = [field.name for field in dataclasses.fields(RunSpec)]
_MEANING = [__version__, SCHEMA, _FIELDS, _OWN, _CURVES]
VERSION = int(hashlib.sha256(json.dumps(_MEANING).encode()).hexdigest()[:7], 16)
_ROW = "key, stamp, numbers, facts, split, own, sum"

Names = tuple[str, ...]


def index_file(store: Path) -> Path:
    """The file of a store, which may not exist."""
    location = os.fsencode(os.path.realpath(store))
    return cache_root() / STORES / f"{hashlib.sha256(location).hexdigest()[:32]}.sqlite"


def open_index_file(store: Path, *, create: bool = False) -> Database:
    """Open the file of a store; memory if it cannot be used, or is absent and not to be created."""
    path = index_file(store)
    used = path if create or path.exists() else None
    return Database(used, TABLES, VERSION, timeout=10.0, writes=is_shared())


def digest_of_text(text: bytes) -> bytes:
    """The key of a shared text."""
    return hashlib.blake2b(text, digest_size=16).digest()


def index_files(store: Path) -> list[Path]:
    """The files of a store's index that exist, in the order in which they may be removed."""
    path = index_file(store)
    every = (path.with_name(f"{path.name}{ending}") for ending in (*JOURNALS, ""))
    return [file for file in every if file.is_file()]


class Row:
    """One record of an index; its fields are read on access.

    stamp: of its file, packed. numbers: JSON of the values of `_NUMBERS`. facts, split: values that
    are one object for all records that have them. own: JSON of the other fields, and the names of
    curves, which are read from the record's file. verified: the packed stamp of logits that were
    verified against the record. store: its folder.
    """

    __slots__ = ("facts", "key", "numbers", "own", "split", "stamp", "store", "verified")

    def __init__(
        self,
        key: str,
        stamp: bytes,
        numbers: bytes,
        facts: Any,
        split: Any,
        own: bytes,
        verified: bytes | None,
        store: Path,
    ) -> None:
        self.key, self.stamp, self.numbers, self.own = key, stamp, numbers, own
        self.facts, self.split, self.verified, self.store = facts, split, verified, store

    def record(self, spec: RunSpec | None = None) -> Record:
        """The record, which reads most fields lazily. spec: that of its key, if known."""
        if spec is None:
            numbers = zip(_NUMBERS, msgspec.json.decode(self.numbers), strict=True)
            spec = RunSpec.read({**self.facts["spec"], **dict(numbers)}, self.key)
        return Record.reading(spec, self.facts, self)

    def __call__(self, part: str) -> Any:
        """A field by name."""
        if part == "split":
            return self.split
        own = _parse_own(self.own)
        if part == _CURVES:
            return self._read_curves() if own[part] else {}
        if part in _OWN_ENTRY:
            return self.facts[part] | own[part]
        if part in _SHARED_ENTRY:
            return own[part] | self.facts[part]
        return own[part]

    def _read_curves(self) -> Any:
        """The curves in the file of the record; StoreError if it is no longer the same record."""
        path = path_of(self.store, self.key)
        try:
            record = read_record(path)
        except (FileNotFoundError, Damaged) as error:
            raise StoreError(f"'{path}' changed while it was read: {error}") from None
        if record.digests != self("digests"):
            raise StoreError(f"'{path}' was replaced while it was read; repeat the command")
        return record.curves

    def entries(self, part: str, names: Names) -> tuple[Any, ...]:
        """The named values of a field; None for missing ones."""
        return self.columns((self,), part, names)[0]

    @staticmethod
    def columns(
        rows: Iterable[Row], part: str, names: Names, absent: Any = None
    ) -> list[tuple[Any, ...]]:
        """The named values of a field of many records, a tuple for each; see `Record.entries`."""
        rows = list(rows)
        if part == _CURVES:
            fields = (row(part) for row in rows)
            return [tuple(entry(curves, name, absent) for name in names) for curves in fields]
        own = tuple(name for name in names if _is_own(part, name))
        shared = tuple(name for name in names if name not in own)
        if not own:
            return _read_shared(rows, part, shared, absent)
        lines = _read_lines([row.own for row in rows], part, own, absent)
        if not shared:
            return lines
        columns = [(*own, *shared).index(name) for name in names]
        both = map(operator.add, lines, _read_shared(rows, part, shared, absent))
        return [tuple(line[column] for column in columns) for line in both]

    def is_verified(self, stamp: Stamp | None) -> bool:
        """True if logits with this file stamp were already verified against the record."""
        return stamp is not None and self.verified == pack_stamp(stamp)


class Index:
    """The rows of a store's file, and new ones."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._database = open_index_file(store)
        # Rows in the file, by the first digits of their keys.
        self._rows: dict[str, dict[str, Row]] = {}
        # What is to be written: rows, shared texts by digest, and rows with newly verified logits.
        self._new: dict[str, tuple[Any, ...]] = {}
        self._texts: dict[bytes, bytes] = {}
        self._verdicts: dict[str, Row] = {}
        # Values of shared texts; equal ones are one object.
        self._values: dict[bytes, Any] = {}
        self._found: set[str] = set()
        self._is_refused = False

    def find(self, key: str, stamp: Stamp | None) -> Row | None:
        """The row of a record file; None unless it was read from a file with this stamp."""
        if stamp is None or not key:
            return None
        if key[:2] not in self._rows:
            self._rows[key[:2]] = self._read_rows(key[:2])
        row = self._rows[key[:2]].get(key)
        if row is None or row.stamp != pack_stamp(stamp):
            return None
        self._found.add(key)
        return row

    def _read_rows(self, begin: str) -> dict[str, Row]:
        """The rows of the file that nothing but this module has changed."""
        sql = f"select {_ROW}, verified from records where key between ? and ?"
        rows = {}
        for *content, total, verified in self._database.read(sql, (begin, f"{begin}g")):
            with suppress(TypeError, AttributeError):
                if _sum_of(content) == total:
                    key, stamp, numbers, *shared, own = content
                    facts, split = map(self._look_up, shared)
                    if facts is not None and split is not None:
                        rows[key] = Row(
                            key, stamp, numbers, facts, split, own, verified, self.store
                        )
        return rows

    def _look_up(self, digest: bytes) -> Any:
        """The value of a shared text; None if the file does not have it."""
        if digest not in self._values:
            sql = "select text from texts where digest = ?"
            for (text,) in self._database.read(sql, (digest,)):
                if isinstance(text, bytes) and digest_of_text(text) == digest:
                    self._values[digest] = parse_json(text)
        return self._values.get(digest)

    def add(self, key: str, stamp: Stamp | None, record: Record) -> Row:
        """Add the row of a valid record. stamp: of its file, taken before reading it."""
        numbers, facts, split, own = map(encode_json, _take_apart(record))
        shared = digest_of_text(facts), digest_of_text(split)
        texts = dict(zip(shared, (facts, split), strict=True))
        for digest in texts.keys() - self._values.keys():
            self._values[digest] = parse_json(texts[digest])
        packed = pack_stamp(stamp)
        content = (key, packed, numbers, *shared, own)
        if stamp is not None and _is_settled(stamp):
            self._new[key] = (*content, _sum_of(content))
            self._texts |= texts
        self._found.add(key)
        if len(self._new) >= MOST and not self._is_refused:
            self._write_new()
        of_facts, of_split = (self._values[digest] for digest in shared)
        return Row(key, packed, numbers, of_facts, of_split, own, None, self.store)

    def mark_verified(self, row: Row, stamp: Stamp | None) -> None:
        """Note that a row's logits, with this file stamp, are verified; None if it has none."""
        if stamp is not None and _is_settled(stamp):
            row.verified = pack_stamp(stamp)
            self._verdicts[row.key] = row

    def save(self, *, complete: bool = False) -> None:
        """Write new rows and verdicts, if there are enough and the file can be written.

        complete: True if all record files were looked up, so that rows not found are obsolete.
        """
        changed = len(self._new) + len(self._verdicts)
        if changed >= WORTH or (changed and any(self._rows.values())):
            self._write_new()
        if complete:
            keys = self._database.read("select key from records")
            self.remove([key for (key,) in keys if key not in self._found])

    def _write_new(self) -> None:
        if self._database.path is None:
            self._database = open_index_file(self.store, create=True)
        marks = ", ".join("?" * len(_ROW.split()))
        verdicts = ((row.verified, key, row.stamp) for key, row in self._verdicts.items())
        texts = "insert or ignore into texts values (?, ?)"
        rows = f"insert or replace into records ({_ROW}) values ({marks})"
        verified = "update records set verified = ? where key = ? and stamp = ?"
        try:
            with self._database.write() as connection:
                connection.executemany(texts, self._texts.items())
                connection.executemany(rows, self._new.values())
                connection.executemany(verified, verdicts)
        except OSError:
            # Rows stay in memory.
            self._is_refused = True
            return
        self._new, self._texts, self._verdicts = {}, {}, {}

    def remove(self, keys: Sequence[str]) -> None:
        """Remove rows, and texts that no row needs any more, if the file can be written."""
        if not keys:
            return
        texts = (
            "select facts from records union select split from records"
            " union select queries from outcomes"
        )
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("delete from records where key = ?", zip(keys))
            connection.execute(f"delete from texts where digest not in ({texts})")


def _take_apart(record: Record) -> tuple[Any, ...]:
    """Numbers of the specification, facts that other records share, the split, and the rest."""
    spec = record.spec.to_dict()
    numbers = [spec.pop(name) for name in _NUMBERS]
    facts = {"spec": spec} | {name: getattr(record, name) for name in _STATE}
    own = {name: getattr(record, name) for name in _OWN} | {_CURVES: list(record.curves)}
    for fields, others, apart in ((own, facts, _SHARED_ENTRY), (facts, own, _OWN_ENTRY)):
        for field, name in apart.items():
            rest = dict(getattr(record, field))
            others[field] = {name: rest.pop(name)} if name in rest else {}
            fields[field] = rest
    return numbers, facts, record.split, own


def _is_own(field: str, name: str) -> bool:
    """True if an entry of a field is in a record's own text."""
    first = name.partition(".")[0]
    if field in _OWN:
        return first != _SHARED_ENTRY.get(field)
    return first == _OWN_ENTRY.get(field)


def _sum_of(content: Sequence[Any]) -> int:
    return zlib.crc32(b"".join(content[1:]), zlib.crc32(content[0].encode()))


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[:2]) <= time.time_ns() - SETTLED_SECONDS * 1e9


@functools.lru_cache(maxsize=4)
def _parse_own(text: bytes) -> Any:
    """The fields in a record's own text; several of one record are read one after the other."""
    return parse_json(text)


def _read_shared(
    rows: Sequence[Row], field: str, names: Names, absent: Any
) -> list[tuple[Any, ...]]:
    """The named entries of a field of each row, which other records share."""
    values = [row.split if field == "split" else row.facts[field] for row in rows]
    distinct = {id(value): value for value in values}
    lines = {
        number: tuple(entry(value, name, absent) for name in names)
        for number, value in distinct.items()
    }
    return [lines[id(value)] for value in values]


def _read_lines(
    texts: Sequence[bytes], field: str, names: Names, absent: Any
) -> list[tuple[Any, ...]]:
    """The named entries of a field of each own text."""
    dotted = [name.partition(".") for name in names if "." in name]
    keys = (*names, *dict.fromkeys(first for first, _, _ in dotted if first not in names))
    decoder = _decoder(field, keys, absent)
    lines: list[tuple[Any, ...]] = []
    for start in range(0, len(texts), MOST):
        part = texts[start : start + MOST]
        try:
            rows = decoder.decode(b"[%b]" % b",".join(part))
        except msgspec.DecodeError:
            fields = (parse_json(text)[field] for text in part)
            lines += (tuple(entry(values, name, absent) for name in keys) for values in fields)
        else:
            lines += (msgspec.structs.astuple(row.field) for row in rows)
    if not dotted or not lines:
        return lines
    columns = dict(zip(keys, zip(*lines, strict=True), strict=True))
    for first, _, inner in dotted:
        name = f"{first}.{inner}"
        columns[name] = tuple(
            entry(values, inner, absent) if value is absent else value
            for value, values in zip(columns[name], columns[first], strict=True)
        )
    return list(zip(*(columns[name] for name in names), strict=True))


@functools.cache
def _decoder(field: str, keys: Names, absent: Any) -> msgspec.json.Decoder[list[Any]]:
    """Reads the entries of a field of many own texts, and nothing else of them."""
    labels = {f"f{number}": key for number, key in enumerate(keys)}
    asked = defstruct("Asked", [(label, Any, absent) for label in labels], rename=labels)
    own = defstruct("Own", [("field", asked)], rename={"field": field})
    return msgspec.json.Decoder(list[own])  # type: ignore[valid-type]
