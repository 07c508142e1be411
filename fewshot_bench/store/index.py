"""The contents of a store's records in one file (`index_file`), so that listing opens no record.

A row is believed only while its record has the stamp under which it was read and checked. What the
file cannot give, for whatever reason, is read from the record.
"""

from __future__ import annotations

import functools
import itertools
import operator
import time
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
from msgspec import defstruct

from fewshot_bench.api.record import Record, encode_json, entry, parse_json
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.index_file import digest_of_text, open_index_file
from fewshot_bench.store.record_files import (
    Stamp,
    pack_stamp,
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
# Fields in the text that a record has for itself. Of other fields, it has the entries named here;
# of these fields, other records share the entries named here.
_OWN = ("metrics", "footprint", "timings", "digests", "notes")
_OWN_ENTRY = {"environment": "load"}
_SHARED_ENTRY = {"footprint": "card"}
_HEAD = ("key", "stamp", "numbers", "facts", "split", "sum", "verified")
_ROW = f"{', '.join(_HEAD)}, own"
_FACTS, _SPLIT = _HEAD.index("facts"), _HEAD.index("split")
_TEXT = "select text from texts where digest = ?"

Head = tuple[Any, ...]
Names = tuple[str, ...]


class Row:
    """One record of an index; its fields are read on access."""

    __slots__ = ("_head", "_index", "key")

    def __init__(self, index: Index, head: Head) -> None:
        self._index = index
        self._head = head
        self.key: str = head[0]

    def record(self, spec: RunSpec | None = None) -> Record:
        """The record, which reads most fields lazily. spec: that of its key, if known."""
        facts = self._index.facts(self._head)
        if spec is None:
            numbers = zip(_NUMBERS, msgspec.json.decode(self._head[2]), strict=True)
            spec = RunSpec.read({**facts["spec"], **dict(numbers)}, self.key)
        return Record.reading(spec, facts, self)

    def __call__(self, part: str) -> Any:
        """A field by name."""
        index, head = self._index, self._head
        if part == "split":
            return index.read_shared(head, _SPLIT)
        if part in _OWN_ENTRY:
            return index.facts(head)[part] | index.own(head, part)
        if part in _SHARED_ENTRY:
            return index.own(head, part) | index.facts(head)[part]
        return index.own(head, part)

    def entries(self, part: str, names: Names) -> tuple[Any, ...]:
        """The named values of a field; None for missing ones."""
        return self.columns((self,), part, names)[0]

    @staticmethod
    def columns(
        rows: Iterable[Row], part: str, names: Names, absent: Any = None
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
        # Own texts by key and stamp: of all rows of the file, once many were asked for.
        self._own_texts: dict[Head, bytes] | None = None
        self._asked = 0
        # Fields of the row that was read last.
        self._last: tuple[Head, dict[str, Any]] = (), {}
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
        if self._look_up(head[_FACTS]) is None:
            # Another process has removed the file, or the text, since.
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
        numbers, *shared, own = _take_apart(record)
        digests = map(self._share, map(encode_json, shared))
        head = (key, pack_stamp(stamp), encode_json(numbers), *digests)
        row = (*head, _sum_of(head), None, _seal(key, encode_json(own)))
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
        marks = ", ".join("?" * (len(_HEAD) + 1))
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
        texts = (
            "select facts from records union select split from records"
            " union select queries from outcomes"
        )
        with suppress(OSError), self._database.write() as connection:
            connection.executemany("delete from records where key = ?", zip(keys))
            connection.execute(f"delete from texts where digest not in ({texts})")

    def facts(self, head: Head) -> Any:
        """What other records of a row's method share with it: fields with their shared entries."""
        return self.read_shared(head, _FACTS)

    def read_shared(self, head: Head, column: int) -> Any:
        """The value of a shared text. column: of its digest in the head."""
        value = self._look_up(head[column])
        if value is None:
            value = parse_json(encode_json(_take_apart(self.read_file(head))[column - 2]))
        return value

    def _look_up(self, digest: bytes) -> Any:
        """The value of a shared text; None if the file has it no more."""
        if digest not in self._values:
            text = self._texts.get(digest)
            if text is None:
                ((text,),) = self._database.read(_TEXT, (digest,)) or ((None,),)
            if not isinstance(text, bytes) or digest_of_text(text) != digest:
                return None
            # Of two threads, both return the object that is kept.
            self._values.setdefault(digest, parse_json(text))
        return self._values[digest]

    def own(self, head: Head, field: str) -> Any:
        """A field of a row's own text, without entries that others share."""
        last, values = self._last
        if last != head[:2]:
            (text,) = self._texts_of([head])
            values = parse_json(text)
            self._last = head[:2], values
        return values[field]

    def _texts_of(self, heads: Sequence[Head]) -> list[bytes]:
        """The own texts of rows; those of the file stay in memory once many were asked for."""
        self._asked += len(heads)
        if self._own_texts is None and 8 * self._asked > len(self._found):
            rows = self._database.read("select key, stamp, own from records")
            texts = {(key, stamp): _unseal(key, sealed) for key, stamp, sealed in rows}
            self._own_texts = {head: text for head, text in texts.items() if text is not None}
        texts_of_file = self._own_texts or {}
        return [texts_of_file.get(head[:2]) or self._own_text(head) for head in heads]

    def _own_text(self, head: Head) -> bytes:
        key, stamp = head[:2]
        row = self._new.get(key) or self._kept.get(key)
        if row is None or row[1] != stamp:
            sql = "select own from records where key = ? and stamp = ?"
            row = next(iter(self._database.read(sql, (key, stamp))), (None,))
        text = _unseal(key, row[-1])
        return encode_json(_take_apart(self.read_file(head))[-1]) if text is None else text

    def entries(
        self, heads: Sequence[Head], field: str, names: Names, absent: Any
    ) -> list[tuple[Any, ...]]:
        """The named values of a field for each row."""
        of_own = [name for name in names if _is_own(field, name)]
        shared = tuple(name for name in names if name not in of_own)
        if not of_own:
            return self._shared_lines(heads, field, shared, absent)
        lines = _read_lines(self._texts_of(heads), field, tuple(of_own), absent)
        if not shared:
            return lines
        others = self._shared_lines(heads, field, shared, absent)
        columns = [(*of_own, *shared).index(name) for name in names]
        both = map(operator.add, lines, others)
        return [tuple(line[column] for column in columns) for line in both]

    def _shared_lines(
        self, heads: Sequence[Head], field: str, names: Names, absent: Any
    ) -> list[tuple[Any, ...]]:
        column = _SPLIT if field == "split" else _FACTS
        lines = {}
        for digest, head in {head[column]: head for head in heads}.items():
            value = self.read_shared(head, column)
            value = value if field == "split" else value[field]
            lines[digest] = tuple(entry(value, name, absent) for name in names)
        return [lines[head[column]] for head in heads]

    def read_file(self, head: Head) -> Record:
        """The record of a row from its file; StoreError if it is another one now."""
        key, stamp = head[:2]
        path = path_of(self.store, key)
        with suppress(OSError, Damaged):
            if pack_stamp(stamp_of(path.stat())) == stamp:
                return read_record(path)
        raise StoreError(f"record {key[:12]} was replaced or removed meanwhile; run again")


def _take_apart(record: Record) -> tuple[Any, ...]:
    """Numbers of the specification, facts that other records share, the split, and the rest."""
    spec = record.spec.to_dict()
    numbers = [spec.pop(name) for name in _NUMBERS]
    facts = {"spec": spec} | {name: getattr(record, name) for name in _STATE}
    own = {name: getattr(record, name) for name in _OWN}
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
