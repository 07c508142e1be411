"""The contents of a store's record files in few files, so that listing them opens no record.

`Index` is the entry point. Its files may be deleted at any time without loss: a row is valid only
while its record file has the stamp under which it was read and checked, and damaged files are
ignored. A file is written once, under its own name; new rows go into another file and small files
are merged, so that a row is written a few times at most.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.columns import BlockFile, Column, Keys, StoredColumn, packed
from fewshot_bench.store.frames import Frames, compact
from fewshot_bench.store.record_files import (
    READER,
    STAMP_SIZE,
    Stamp,
    packed_stamp,
    path_of,
    read_fields,
    stamp_of,
    without,
)
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged, write_whole

INDEX = "records.index"
# Fewer new rows are not worth a file.
WORTH = 64
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# Versions and fields on which validity of a record depends; an index with others is ignored.
_READER = [3, sys.byteorder, *READER]
_HEAD = f"fsbench index {json.dumps(_READER)}\n".encode()
# Parts of a record in a row; the specification's parts are mostly equal between records.
_SPEC_PARTS = ("options", "overrides", "data")
_RECORD_PARTS = (*("split", "metrics", "footprint", "timings", "environment", "notes", "digests"),)
_STATE = ("status", "error", "incidents")
# Equal values of these parts are one object, shared between records.
_SHARED = frozenset({*_SPEC_PARTS, "split"})
# Parts that are often as in other records.
_REPEATED = _SHARED | {"state", "environment", "notes"}
# The most bytes of packed texts cached while rows are added, and the most values of other parts.
_MOST_BYTES, _MOST_VALUES = 2**23, 1024
_PARTS = ("spec", "state", *_SPEC_PARTS, *_RECORD_PARTS)
# Blocks of a file before those of the parts.
_BLOCKS = ("frames", "keys", "stamps", "stamps of verified logits")
_ABSENT = object()
_NO_STAMP = packed_stamp(None)
# The layout follows the head and a checksum; it is a line of a few hundred bytes.
_BEGIN = len(_HEAD) + 2 * hashlib.sha256().digest_size + 1
_MOST_LAYOUT = 2**16


class Segment:
    """Rows of records in columns, and the frames that their texts are packed with.

    A row has the key, the stamp of the record, the stamp of the verified logits, and the parts of
    the record. Rows are numbered; only a segment without a file gets new ones.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.frames = Frames()
        self.keys = Keys()
        # 1 for rows found valid; and the number of changes since the file was read.
        self.found = bytearray()
        self.changed = 0
        self._stamps, self._checked = bytearray(), bytearray()
        self._columns = {name: Column() for name in _PARTS}
        self._values: dict[str, dict[int, Any]] = {name: {} for name in _PARTS}
        # Packed texts of repeated parts.
        self._known: dict[bytes, str] = {}
        self._known_bytes = 0

    @classmethod
    def read(cls, path: Path) -> Segment | None:
        """Read a segment from a file; None if it is missing, damaged or of another version."""
        try:
            file = BlockFile(path)
            begin = file.read(0, _MOST_LAYOUT)
            layout, _, _ = begin[_BEGIN:].partition(b"\n")
            if not begin.startswith(_HEAD) or not layout.startswith(b"{"):
                return None
            stated = json.loads(layout)
            texts, sizes = stated["texts"], stated["bytes"]
            if begin[len(_HEAD) : _BEGIN] != _checksum(file.chunks(_BEGIN)):
                return None
            # The checksum covers the layout: the file is as it was written.
            ends = list(itertools.accumulate(sizes, initial=_BEGIN + len(layout) + 1))
            blocks = [partial(file.unpacked, *place) for place in zip(ends, sizes, strict=False)]
            return cls(path)._filled(texts, blocks)
        except (OSError, ValueError, KeyError, zlib.error):
            return None

    def _filled(self, texts: Sequence[int], blocks: Sequence[Callable[[], bytes]]) -> Segment:
        frames, keys, stamps, checked = (read() for read in blocks[: len(_BLOCKS)])
        self.frames = Frames(json.loads(frames))
        self.keys = Keys(keys.decode("ascii"))
        self.found = bytearray(len(self.keys))
        self._stamps, self._checked = bytearray(stamps), bytearray(checked)
        for name, count, read in zip(_PARTS, texts, blocks[len(_BLOCKS) :], strict=True):
            again = partial(self._made_again, name)
            self._columns[name] = StoredColumn(len(self.keys), count, read, again)
        return self

    def _made_again(self, name: str) -> Column:
        """A column from the record files; StoreError if a record found valid is another one now."""
        assert self.path is not None
        column = Column()
        for row in range(len(self.keys)):
            key = self.keys[row]
            path, text = path_of(self.path.parent, key), ""
            with suppress(OSError, Damaged):
                if packed_stamp(stamp_of(path.stat())) == _part(self._stamps, row):
                    text = self._packed(name, _parts_of(read_fields(path, key))[name])
            if not text and self.found[row]:
                raise StoreError(
                    f"'{self.path}' cannot be read any more, and record {key[:12]} was replaced "
                    "meanwhile; run again"
                )
            column.add(text)
        return column

    def write(self, folder: Path) -> None:
        """Write the file, named by its checksum, and remove the file that was read."""
        self._known, self._known_bytes = {}, 0
        rows = self.keys.ordered()
        blocks = [
            packed([compact(self.frames.values).encode("ascii")]),
            packed(self.keys[row].encode("ascii") for row in rows),
            *(packed(_part(stamps, row) for row in rows) for stamps in self._both()),
        ]
        texts = []
        for name in _PARTS:
            count, block = self._columns[name].block(rows)
            texts.append(count)
            blocks.append(block)
        layout = compact({"texts": texts, "bytes": list(map(len, blocks))}).encode("ascii") + b"\n"
        checksum = _checksum((layout, *blocks))
        path = folder / f"{INDEX}-{checksum[:16].decode()}"
        write_whole(path, (_HEAD, checksum, layout, *blocks))
        if self.path not in (None, path):
            self.path.unlink(missing_ok=True)
        self.path = path
        stored = Segment.read(path) if rows == list(range(len(rows))) else None
        if stored is not None:
            # Rows and texts have the same numbers; those in memory take several times the space.
            self.keys, self._columns = stored.keys, stored._columns

    def _both(self) -> tuple[bytearray, bytearray]:
        return self._stamps, self._checked

    def find(self, key: str, stamp: bytes) -> Row | None:
        """The row of a record file with this stamp."""
        row = self.keys.row(key)
        if row is None or _part(self._stamps, row) != stamp:
            return None
        self.found[row] = 1
        return Row(self, row)

    def add(self, key: str, stamp: Stamp | None, fields: Mapping[str, bytes]) -> Row:
        """Add the row of a record from the validated fields of its file."""
        parts = _parts_of(fields)
        texts = [self._packed(name, parts[name]) for name in _PARTS]
        return self._add(key, packed_stamp(stamp), _NO_STAMP, texts)

    def _add(self, key: str, stamp: bytes, checked: bytes, texts: Iterable[str]) -> Row:
        row = self.keys.add(key)
        self._stamps += stamp
        self._checked += checked
        self.found.append(0)
        for name, text in zip(_PARTS, texts, strict=True):
            self._columns[name].add(text)
        self.changed += 1
        return Row(self, row)

    def _packed(self, name: str, text: bytes) -> str:
        """Pack the text of a part; one that many records share is packed once."""
        if name not in _REPEATED:
            return self.frames.pack(text)
        found = self._known.get(text)
        if found is None:
            self._known_bytes += len(text)
            if self._known_bytes > _MOST_BYTES:
                self._known, self._known_bytes = {}, len(text)
            found = self._known[text] = self.frames.pack(text)
        return found

    def take(self, other: Segment, rows: Iterable[int]) -> None:
        """Add missing rows from another segment, translated to the frames of this one."""
        places: dict[str, str] = {}
        texts: dict[str, dict[int, str]] = {name: {} for name in _PARTS}

        def translated(name: str, row: int) -> str:
            number = other._columns[name].numbers[row]
            if number not in texts[name]:
                text = other._columns[name].text(number)
                if text.startswith("["):
                    place, *numbers = text[1:-1].split(",", 1)
                    if place not in places:
                        places[place] = str(self.frames.adopted(other.frames, int(place)))
                    text = f"[{','.join([places[place], *numbers])}]"
                texts[name][number] = text
            return texts[name][number]

        for row in rows:
            if self.keys.row(other.keys[row]) is None:
                stamp, checked = (_part(stamps, row) for stamps in other._both())
                texts_of_row = [translated(name, row) for name in _PARTS]
                self._add(other.keys[row], stamp, checked, texts_of_row)

    def part(self, name: str, row: int) -> Any:
        """Unpack a part of a row; values that many rows share are cached."""
        column, values = self._columns[name], self._values[name]
        number = column.numbers[row]
        value = values.get(number, _ABSENT)
        if value is _ABSENT:
            value = self.frames.unpack(column.text(number))
            if name not in _SHARED and len(values) >= _MOST_VALUES:
                values.clear()
            # Of two threads, both return the object that is kept.
            value = values.setdefault(number, value)
        return value

    def entries(
        self, name: str, rows: Iterable[int], names: tuple[str, ...], absent: Any
    ) -> Iterable[tuple[Any, ...]]:
        """The named values of a part for each row; equal texts are read once."""
        column, read = self._columns[name], self.frames.reader(names, absent)
        numbers = list(map(column.numbers.__getitem__, rows))
        values = {number: read(column.text(number)) for number in dict.fromkeys(numbers)}
        return map(values.__getitem__, numbers)

    def is_unverified(self, row: int) -> bool:
        """True for a finished cell whose logits were never verified."""
        return self.part("state", row)["status"] == "done" and self.is_checked(row, _NO_STAMP)

    def is_checked(self, row: int, stamp: bytes) -> bool:
        """True if logits with this stamp were verified against the record."""
        return _part(self._checked, row) == stamp

    def check(self, row: int, stamp: bytes) -> None:
        """Mark logits with this stamp as verified."""
        self._checked[row * STAMP_SIZE : (row + 1) * STAMP_SIZE] = stamp
        self.changed += 1


class Row:
    """One record in a segment; its parts are unpacked on access."""

    __slots__ = ("_row", "_segment")

    def __init__(self, segment: Segment, row: int) -> None:
        self._segment = segment
        self._row = row

    def record(self, spec: RunSpec | None = None) -> Record:
        """The record, which reads most parts lazily. spec: that of its key, if known."""
        segment, row = self._segment, self._row
        state = segment.part("state", row)
        if spec is not None:
            return Record.reading(spec, state, self)
        values = segment.part("spec", row).copy()
        for name in _SPEC_PARTS:
            value = segment.part(name, row)
            if value is not None:
                values[name] = value
        return Record.reading(RunSpec.read(values, segment.keys[row]), state, self)

    def __call__(self, part: str) -> Any:
        """A part by name; empty if it is null in the file (`notes` may be)."""
        return self._segment.part(part, self._row) or {}

    def entries(self, part: str, names: tuple[str, ...]) -> tuple[Any, ...]:
        """The named values of a part; None for missing ones."""
        (found,) = self._segment.entries(part, (self._row,), names, None)
        return found

    @staticmethod
    def columns(
        rows: Iterable[Row], part: str, names: tuple[str, ...], absent: Any = None
    ) -> list[tuple[Any, ...]]:
        """The named values of many records, a tuple for each. absent: as in `Frames.reader`."""
        found: list[tuple[Any, ...]] = []
        for segment, members in itertools.groupby(rows, attrgetter("_segment")):
            found += segment.entries(part, (row._row for row in members), names, absent)
        return found

    @property
    def file(self) -> Path | None:
        """The index file of the row; None if it is not in a file yet."""
        return self._segment.path

    @property
    def is_unverified(self) -> bool:
        """True for a finished cell whose logits were never verified."""
        return self._segment.is_unverified(self._row)

    def is_checked(self, stamp: Stamp | None) -> bool:
        """True if logits with this file stamp were already verified against the record."""
        return stamp is not None and self._segment.is_checked(self._row, packed_stamp(stamp))

    def check(self, stamp: Stamp | None) -> None:
        """Mark logits with this file stamp as verified; None if the record has no logits."""
        if stamp is not None and _is_settled(stamp):
            self._segment.check(self._row, packed_stamp(stamp))


class Index:
    """The rows in a store's index files, and new rows to be added."""

    def __init__(self, folder: Path, segments: list[Segment], useless: Sequence[Path] = ()) -> None:
        """folder: the folder of the store; useless: damaged or outdated files of its index."""
        self._folder = folder
        self._segments = segments
        self._useless = useless
        self._new, self._unsettled = Segment(), Segment()

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Load every undamaged index segment of a store."""
        found = {path: Segment.read(path) for path in _newest_first(index_files(folder))}
        whole = [segment for segment in found.values() if segment is not None]
        return cls(folder, whole, [path for path, segment in found.items() if segment is None])

    def verified(self) -> int:
        """The number of rows without finished cells whose logits were never verified."""
        counts = (
            len(s.keys) - sum(map(s.is_unverified, range(len(s.keys)))) for s in self._segments
        )
        return sum(counts)

    def join(self) -> None:
        """Write the rows of all files into one, if the folder can be written."""
        old = [segment.path for segment in self._segments if segment.path is not None]
        for segment in self._segments:
            self._new.take(segment, range(len(segment.keys)))
        with suppress(OSError):
            self._write_new(old)

    def _write_new(self, old: Iterable[Path]) -> None:
        """Write the new rows, and remove the files that they replace."""
        self._new.write(self._folder)
        for path in {*old, *self._useless} - {self._new.path}:
            path.unlink(missing_ok=True)

    def find(self, key: str, stamp: Stamp | None) -> Row | None:
        """The row of a record file; None unless it was read from a file with this stamp."""
        if stamp is None:
            return None
        known = packed_stamp(stamp)
        for segment in self._segments:
            row = segment.find(key, known)
            if row is not None:
                return row
        return None

    def add(self, key: str, stamp: Stamp | None, fields: Mapping[str, bytes]) -> Row:
        """Add the row of a valid record from what `read_fields` returned.

        stamp: of its file, taken before reading it.
        """
        segment = self._new if stamp and _is_settled(stamp) else self._unsettled
        return segment.add(key, stamp, fields)

    def save(self, *, whole: bool) -> None:
        """Write new and changed rows, if there are enough and the folder can be written.

        whole: True if all record files were looked up, so that rows not found are obsolete.
        """
        with suppress(OSError):
            if len(self._new.keys) >= WORTH:
                self._write_new(self._gather(whole))
            for segment in self._segments:
                if segment.changed >= WORTH:
                    segment.write(self._folder)

    def _gather(self, whole: bool) -> list[Path]:
        """Merge small or mostly obsolete segments into the new one; returns their files."""
        old = []
        for segment in sorted(self._segments, key=lambda segment: len(segment.keys)):
            rows = list(_where(segment.found)) if whole else range(len(segment.keys))
            if len(rows) <= 2 * len(self._new.keys) or 2 * len(rows) < len(segment.keys):
                self._new.take(segment, rows)
                self._segments.remove(segment)
                old += [segment.path] if segment.path else []
        return old


def index_files(folder: Path) -> Iterator[Path]:
    """The files of a store's index, valid or not."""
    return (path for path in folder.glob(f"{INDEX}*") if path.is_file())


def _newest_first(paths: Iterable[Path]) -> list[Path]:
    """A row that is in two files is read from the later one, which can have verified logits."""
    times = {}
    for path in sorted(paths):
        with suppress(OSError):
            times[path] = path.stat().st_mtime_ns
    return sorted(times, key=times.__getitem__, reverse=True)


def _part(stamps: bytearray, row: int) -> bytes:
    return bytes(stamps[row * STAMP_SIZE : (row + 1) * STAMP_SIZE])


def _parts_of(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """The text of each part of a record."""
    parts, spec = {}, fields["spec"]
    for name in _SPEC_PARTS:
        spec, parts[name] = without(spec, name)
    state = (b'\n "%s": %s' % (name.encode(), fields.get(name, b"null")) for name in _STATE)
    parts |= {"spec": spec, "state": b"{%s\n}" % b",".join(state)}
    return parts | {name: fields.get(name, b"{}") for name in _RECORD_PARTS}


def _where(flags: bytearray) -> Iterator[int]:
    return (row for row, flag in enumerate(flags) if flag)


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[:2]) <= time.time_ns() - SETTLED_SECONDS * 1e9


def _checksum(pieces: Iterable[bytes]) -> bytes:
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(piece)
    return sha.hexdigest().encode() + b"\n"
