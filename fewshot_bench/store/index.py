"""The contents of a store's records in one file (`index_file`), so that listing opens no record.

A row is believed only while its record has the stamp under which it was read and checked. What the
file cannot give, for whatever reason, is read from the record.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from fewshot_bench.api.record import Record, entry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.index_file import digest_of_text, open_index_file
from fewshot_bench.store.record_files import (
    Stamp,
    pack_stamp,
    parse_json,
    path_of,
    read_record,
    stamp_of,
)
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged

# Fewer new rows are not worth a file; more are written at once.
WORTH, MOST = 64, 2048
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# Numbers of a specification, in which most of the cells of a method differ.
_NUMBERS = ("shots", "split_seed", "train_seed")
_STATE = ("status", "error", "incidents")
# Parts of a record that many records share, and those that most have for themselves.
_SHARED = ("spec", "state", "split", "environment", "card")
_OWN = ("metrics", "footprint", "timings", "digests", "load", "notes")
# Parts that are an entry of a field: one that others share, or one that others have not.
_ENTRIES = {"card": "footprint", "load": "environment"}
_HEAD = ("key", "stamp", "numbers", *_SHARED, "sum", "verified")
_ROW = ", ".join((*_HEAD, *_OWN))
# Reads of a part of single records, after which the part of all is read.
_FEW = 16

Head = tuple[Any, ...]


class Row:
    """One record of an index; its fields are read on access."""

    __slots__ = ("_head", "_index", "key")

    def __init__(self, index: Index, head: Head) -> None:
        self._index = index
        self._head = head
        self.key: str = head[0]

    def record(self, spec: RunSpec | None = None) -> Record:
        """The record, which reads most fields lazily. spec: that of its key, if known."""
        index, head = self._index, self._head
        state = index.shared(head, "state") or _state_of(index.read_file(head))
        if spec is None:
            values = index.shared(head, "spec")
            if values is None:
                spec = index.read_file(head).spec
            else:
                numbers = zip(_NUMBERS, msgspec.json.decode(head[2]), strict=True)
                spec = RunSpec.read({**values, **dict(numbers)}, self.key)
        return Record.reading(spec, state, self)

    def __call__(self, part: str) -> Any:
        """A field by name."""
        entries = [name for name, field in _ENTRIES.items() if field == part]
        values = [self._index.value(self._head, name) for name in (part, *entries)]
        if None in values:
            return getattr(self._index.read_file(self._head), part)
        return {**values[0], **values[1]} if entries else values[0]

    def entries(self, part: str, names: tuple[str, ...]) -> tuple[Any, ...]:
        """The named values of a field; None for missing ones."""
        return self.columns((self,), part, names)[0]

    @staticmethod
    def columns(
        rows: Iterable[Row], part: str, names: tuple[str, ...], absent: Any = None
    ) -> list[tuple[Any, ...]]:
        """The named values of a field of many records, a tuple for each; see `Record.entries`."""
        lines: list[tuple[Any, ...]] = []
        for index, members in itertools.groupby(rows, attrgetter("_index")):
            lines += index.entries([row._head for row in members], part, names, absent)
        return lines

    def is_verified(self, stamp: Stamp | None) -> bool:
        """True if logits with this file stamp were already verified against the record."""
        verified = self._index.verified.get(self._head[:2], self._head[-1])
        return stamp is not None and bool(verified == pack_stamp(stamp))

    def mark_verified(self, stamp: Stamp | None) -> None:
        """Note that logits with this file stamp are verified; None if the record has none."""
        if stamp is not None and _is_settled(stamp):
            self._index.verify(self._head, pack_stamp(stamp))


class Index:
    """The rows of a store's file, and new ones."""

    def __init__(self, store: Path) -> None:
        self.store = store
        # Stamps of verified logits, by the key and stamp of the record; those not in the file.
        self.verified: dict[tuple[str, bytes], bytes] = {}
        self._verdicts: dict[tuple[str, bytes], bytes] = {}
        self._database = open_index_file(store)
        # Heads of rows in the file, by the first digits of their keys.
        self._heads: dict[str, dict[str, Head]] = {}
        # Whole rows that are not in the file: to be written, and others.
        self._new: dict[str, tuple[Any, ...]] = {}
        self._kept: dict[str, tuple[Any, ...]] = {}
        # Shared texts that may not be in the file, and their values; equal ones are one object.
        self._texts: dict[bytes, bytes] = {}
        self._values: dict[bytes, Any] = {}
        self._digests: dict[bytes, bytes] = {}
        self._columns: dict[str, dict[str, tuple[bytes, bytes]]] = {}
        self._reads: Counter[str] = Counter()
        self._found: set[str] = set()
        self._is_refused = False

    def find(self, key: str, stamp: Stamp | None) -> Row | None:
        """The row of a record file; None unless it was read from a file with this stamp."""
        if stamp is None or not key:
            return None
        heads = self._heads.get(key[:2])
        if heads is None:
            heads = self._heads[key[:2]] = self._read_heads(key[:2])
        head = heads.get(key)
        if head is None or head[1] != pack_stamp(stamp):
            return None
        self._found.add(key)
        return Row(self, head)

    def _read_heads(self, begin: str) -> dict[str, Head]:
        sql = f"select {', '.join(_HEAD)} from records where key between ? and ?"
        heads = {}
        share = self._digests.setdefault
        for head in self._database.read(sql, (begin, f"{begin}g")):
            if _is_whole(head):
                key, stamp, *shared = head[:-2]
                heads[key] = (key, stamp, *map(share, shared, shared), None, head[-1])
        return heads

    def add(self, key: str, stamp: Stamp | None, record: Record) -> Row:
        """Add the row of a valid record. stamp: of its file, taken before reading it."""
        parts = _take_apart(record)
        numbers = parts.pop("numbers")
        digests = [self._share(_encode(parts[part])) for part in _SHARED]
        head = (key, pack_stamp(stamp), _encode(numbers), *digests)
        own = (_seal(key, _encode(parts[part])) for part in _OWN)
        row = (*head, _sum_of(head), None, *own)
        settled = stamp is not None and _is_settled(stamp)
        (self._new if settled else self._kept)[key] = row
        self._found.add(key)
        if len(self._new) >= MOST and not self._is_refused:
            self._write_new()
        return Row(self, row[: len(_HEAD)])

    def _share(self, text: bytes) -> bytes:
        digest = digest_of_text(text)
        self._texts.setdefault(digest, text)
        return self._digests.setdefault(digest, digest)

    def verify(self, head: Head, logits: bytes) -> None:
        """Note that logits with this stamp were verified against a row's record."""
        self.verified[head[:2]] = self._verdicts[head[:2]] = logits

    def save(self, *, complete: bool = False) -> None:
        """Write new rows and verdicts, if there are enough and the file can be written.

        complete: True if all record files were looked up, so that rows not found are obsolete.
        """
        changed = len(self._new) + len(self._verdicts)
        if changed >= WORTH or (changed and any(self._heads.values())):
            self._write_new()
        if complete:
            keys = self._database.read("select key from records")
            self.remove([key for (key,) in keys if key not in self._found])

    def _write_new(self) -> None:
        if self._database.path is None:
            self._database = open_index_file(self.store, create=True)
        marks = ", ".join("?" * (len(_HEAD) + len(_OWN)))
        verdicts = ((logits, *record) for record, logits in self._verdicts.items())
        try:
            with self._database.write() as connection:
                connection.executemany(
                    "insert or ignore into texts values (?, ?)", self._texts.items()
                )
                connection.executemany(
                    f"insert or replace into records ({_ROW}) values ({marks})", self._new.values()
                )
                connection.executemany(
                    "update records set verified = ? where key = ? and stamp = ?", verdicts
                )
        except OSError:
            # Rows stay in memory.
            self._is_refused = True
            return
        self._new, self._verdicts = {}, {}
        if not self._kept:
            self._texts = {}

    def remove(self, keys: Sequence[str]) -> None:
        """Remove rows, and texts that no row needs any more, if the file can be written."""
        if not keys:
            return
        needed = (f"select {part} from records" for part in _SHARED)
        texts = " union ".join([*needed, "select queries from outcomes"])
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("delete from records where key = ?", zip(keys))
            connection.execute(f"delete from texts where digest not in ({texts})")

    def shared(self, head: Head, part: str) -> Any:
        """The value of a shared part; None if it cannot be had from the file any more."""
        digest = head[_HEAD.index(part)]
        value = self._values.get(digest)
        if value is None:
            text = self._texts.get(digest)
            if text is None:
                for (text,) in self._database.read(
                    "select text from texts where digest = ?", (digest,)
                ):
                    if digest_of_text(text) != digest:
                        text = None
            if text is not None:
                # Of two threads, both return the object that is kept.
                value = self._values.setdefault(digest, parse_json(text))
        return value

    def value(self, head: Head, part: str) -> Any:
        """The value of a part; None if it cannot be had from the file any more."""
        if part in _SHARED:
            return self.shared(head, part)
        text = self._text(head, part)
        return None if text is None else parse_json(text)

    def _text(self, head: Head, part: str) -> bytes | None:
        key, stamp = head[:2]
        row = self._new.get(key) or self._kept.get(key)
        if row is not None and row[1] == stamp:
            return _unseal(key, row[len(_HEAD) + _OWN.index(part)])
        if part not in self._columns:
            self._reads[part] += 1
            if self._reads[part] <= _FEW:
                sql = f"select stamp, {part} from records where key = ?"
                for now, text in self._database.read(sql, (key,)):
                    return _unseal(key, text) if now == stamp else None
                return None
            self._columns[part] = self._read_column(part)
        now, text = self._columns[part].get(key, (b"", b""))
        return _unseal(key, text) if now == stamp else None

    def _read_column(self, part: str) -> dict[str, tuple[bytes, bytes]]:
        rows = self._database.read(f"select key, stamp, {part} from records")
        return {key: (stamp, text) for key, stamp, text in rows}

    def entries(
        self, heads: Sequence[Head], field: str, names: tuple[str, ...], absent: Any
    ) -> list[tuple[Any, ...]]:
        """The named values of a field for each row."""
        parts = [_part_with(field, name) for name in names]
        wanted = {
            part: tuple(n for n, p in zip(names, parts, strict=True) if p == part) for part in parts
        }
        lines = {part: self._lines(heads, part, wanted[part], absent) for part in wanted}
        if len(lines) == 1:
            return lines[parts[0]]
        places = [(part, wanted[part].index(name)) for part, name in zip(parts, names, strict=True)]
        columns = [[line[place] for line in lines[part]] for part, place in places]
        return list(zip(*columns, strict=True)) if columns else [()] * len(heads)

    def _lines(
        self, heads: Sequence[Head], part: str, names: tuple[str, ...], absent: Any
    ) -> list[tuple[Any, ...]]:
        if part in _SHARED:
            place = _HEAD.index(part)
            lines = {}
            for head in {head[place]: head for head in heads}.values():
                value = self._value_or_file(head, part)
                lines[head[place]] = tuple(entry(value, name, absent) for name in names)
            return [lines[head[place]] for head in heads]
        if 8 * len(heads) > len(self._found):
            return self._many_lines(heads, part, _reader(names, absent))
        whole = (self._value_or_file(head, part) for head in heads)
        return [tuple(entry(value, name, absent) for name in names) for value in whole]

    def _many_lines(
        self, heads: Sequence[Head], part: str, read: Callable[[bytes], tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        column = self._columns.get(part) or self._read_column(part)
        lines = []
        for head in heads:
            key, stamp = head[:2]
            now, sealed = column.get(key, (b"", b""))
            text = _unseal(key, sealed) if now == stamp else self._text(head, part)
            if text is None:
                text = _encode(_take_apart(self.read_file(head))[part])
            lines.append(read(text))
        return lines

    def _value_or_file(self, head: Head, part: str) -> Any:
        value = self.value(head, part)
        return _take_apart(self.read_file(head))[part] if value is None else value

    def read_file(self, head: Head) -> Record:
        """The record of a row from its file; StoreError if it is another one now."""
        key, stamp = head[:2]
        path = path_of(self.store, key)
        with suppress(OSError, Damaged):
            if pack_stamp(stamp_of(path.stat())) == stamp:
                return read_record(path)
        raise StoreError(f"record {key[:12]} was replaced or removed meanwhile; run again")


def _take_apart(record: Record) -> dict[str, Any]:
    """The parts of a record, by name."""
    spec = record.spec.to_dict()
    parts: dict[str, Any] = {
        "numbers": [spec.pop(name) for name in _NUMBERS],
        "spec": spec,
        "state": _state_of(record),
        **{
            name: getattr(record, name)
            for name in ("split", "metrics", "timings", "digests", "notes")
        },
    }
    for part, field in _ENTRIES.items():
        values = dict(getattr(record, field))
        parts[part] = {part: values.pop(part)} if part in values else {}
        parts[field] = values
    return parts


def _state_of(record: Record) -> Mapping[str, Any]:
    return {name: getattr(record, name) for name in _STATE}


def _part_with(field: str, name: str) -> str:
    """The part that has an entry of a field."""
    first = name.partition(".")[0]
    return first if _ENTRIES.get(first) == field else field


def _sum_of(head: Sequence[Any]) -> int:
    return zlib.crc32(b"".join(head[1:]), zlib.crc32(head[0].encode()))


def _is_whole(head: Head) -> bool:
    """True unless a row of the file was changed by something else than this module."""
    try:
        return bool(_sum_of(head[:-2]) == head[-2])
    except (TypeError, AttributeError):
        return False


def _seal(key: str, text: bytes) -> bytes:
    """A text after its checksum, which `_unseal` compares: SQLite notices no changed byte."""
    return zlib.crc32(text, zlib.crc32(key.encode())).to_bytes(4, "big") + text


def _unseal(key: str, sealed: Any) -> bytes | None:
    if isinstance(sealed, bytes) and _seal(key, sealed[4:]) == sealed:
        return sealed[4:]
    return None


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[:2]) <= time.time_ns() - SETTLED_SECONDS * 1e9


def _encode(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # Halves of surrogate pairs, as in names of files that are no text.
        return json.dumps(value).encode()


@functools.cache
def _reader(names: tuple[str, ...], absent: Any) -> Callable[[bytes], tuple[Any, ...]]:
    """A function that reads the named entries of an object, and builds no others."""
    asked = list(dict.fromkeys([*names, *(name.partition(".")[0] for name in names)]))
    labels = [f"f{number}" for number in range(len(asked))]
    kind = msgspec.defstruct(
        "Asked",
        [(label, Any, msgspec.UNSET) for label in labels],
        rename=dict(zip(labels, asked, strict=True)),
    )
    decode = msgspec.json.Decoder(kind).decode

    def read(text: bytes) -> tuple[Any, ...]:
        try:
            made = decode(text)
        except msgspec.DecodeError:
            values = parse_json(text)
        else:
            items = zip(asked, map(made.__getattribute__, labels), strict=True)
            values = {name: value for name, value in items if value is not msgspec.UNSET}
        return tuple(entry(values, name, absent) for name in names)

    return read
