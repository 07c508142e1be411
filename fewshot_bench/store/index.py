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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record, entry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.record_files import READER, Stamp
from fewshot_bench.utils.files import write_whole

INDEX = "records.index"
# Fewer new rows are not worth a file.
WORTH = 64
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# Versions and fields on which validity of a record depends; an index with others is ignored.
_READER = [2, *READER]
_HEAD = f"fsbench index {json.dumps(_READER)}\n".encode()
# Parts of a record in a row; the specification's parts are mostly equal between records.
_SPEC_PARTS = ("options", "overrides", "data")
_RECORD_PARTS = (*("split", "metrics", "footprint", "timings", "environment", "notes", "digests"),)
_STATE = ("status", "error", "incidents")
# Equal values of these parts are one object, shared between records.
_SHARED = frozenset({*_SPEC_PARTS, "split"})
# The maximum number of packed splits cached while rows are added.
_MOST_SPLITS = 1024
_EARLY = ("spec", "state", *_SPEC_PARTS)
_PARTS = (*_EARLY, *_RECORD_PARTS)
_PLACES = {name: place for place, name in enumerate(_PARTS)}
# Columns of a row before its parts.
_FIRST = 3


Filler = Callable[[Sequence[float]], Any]
Reader = Callable[[str], tuple[Any, ...]]


class Frames:
    """Values without their numbers, each kept once: many parts of records differ in numbers alone.

    A part is stored as the index of its frame and its numbers. In a frame, 0 is the placeholder of
    a number, and n > 0 refers to the value at index n - 1, which contains no numbers.
    """

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.values = list(values)
        self._places = {repr(value): place for place, value in enumerate(self.values)}
        self._seen: set[int] = set()
        self._fillers: dict[int, Filler] = {}
        self._readers: dict[tuple[tuple[str, ...], Any], Reader] = {}

    def pack(self, value: Any) -> str:
        """Pack a value as JSON: the value itself, or a list of its frame's index and numbers."""
        if value is None:
            return "null"
        numbers: list[float] = []
        frame = self._frame(value, numbers)
        known = repr(frame)
        if known not in self._places and hash(known) not in self._seen:
            # A value that occurs only once needs no frame.
            self._seen.add(hash(known))
            return _text(value)
        return f"[{','.join(map(repr, [self._place(frame), *numbers]))}]"

    def unpack(self, text: str) -> Any:
        """The inverse of `pack`; a frame without numbers is the same object each time."""
        found, _ = _read(text)
        if type(found) is not list:
            return found
        place = found[0]
        if len(found) == 1:
            return self.values[place]
        if place not in self._fillers:
            self._fillers[place] = self._filler(self.values[place], itertools.count(1))
        return self._fillers[place](found)

    def reader(self, names: tuple[str, ...], absent: Any = None) -> Reader:
        """Make a function that reads the named values of packed objects, without building others.

        names: `work.billed.images` is a value of nested objects. absent: returned for missing ones.
        """
        if (names, absent) not in self._readers:
            self._readers[names, absent] = self._reader(names, absent)
        return self._readers[names, absent]

    def _reader(self, names: tuple[str, ...], absent: Any) -> Reader:
        # By the head of a text: the values if none has numbers, else the makers of all values.
        plain: dict[str, tuple[Any, ...]] = {}
        makers: dict[str, list[Filler]] = {}

        def read(text: str) -> tuple[Any, ...]:
            head = text.partition(",")[0]
            if head in plain:
                return plain[head]
            found, _ = _read(text)
            if type(found) is not list:
                return tuple(entry(found, name, absent) for name in names)
            if head not in makers:
                made = [self._maker(self.values[found[0]], name, 1, absent) for name in names]
                if all(is_plain for is_plain, _ in made):
                    plain[head] = tuple(make(found) for _, make in made)
                    return plain[head]
                makers[head] = [make for _, make in made]
            return tuple(make(found) for make in makers[head])

        return read

    def _maker(self, frame: Any, name: str, first: int, absent: Any) -> tuple[bool, Filler]:
        """True if a value of a frame needs no numbers, and its maker from a list of numbers.

        first: index of the frame's first number.
        """
        own, _, inner = (name, "", "") if name in frame else name.partition(".")
        if own not in frame:
            return True, lambda _: absent
        item = frame[own]
        first += sum(_count(frame[other]) for other in itertools.takewhile(own.__ne__, frame))
        if type(item) is int and item:
            known = self.values[item - 1]
            return True, lambda _: entry(known, inner, absent) if inner else known
        if inner and type(item) is dict:
            return self._maker(item, inner, first, absent)
        if inner or type(item) not in (int, dict, list):
            plain = absent if inner else item
            return True, lambda _: plain
        if item == 0:
            return False, itemgetter(first)
        return False, self._filler(item, itertools.count(first))

    def _frame(self, value: Any, numbers: list[float]) -> Any:
        """The frame of a dictionary or list; its numbers are appended to `numbers`."""
        before, made = len(numbers), value.copy()
        bare = []
        for name, item in value.items() if type(value) is dict else enumerate(value):
            kind = type(item)
            if kind is int or kind is float:
                numbers.append(item)
                made[name] = 0
            elif kind is dict or kind is list:
                count = len(numbers)
                made[name] = self._frame(item, numbers)
                if len(numbers) == count:
                    bare.append(name)
        if len(numbers) > before:
            for name in bare:
                made[name] = 1 + self._place(made[name])
        return made

    def adopted(self, others: Frames, place: int) -> int:
        """Add a frame of other frames to these, if missing; returns its index here."""

        def translated(frame: Any) -> Any:
            if type(frame) is dict:
                return {name: translated(item) for name, item in frame.items()}
            if type(frame) is list:
                return [translated(item) for item in frame]
            return 1 + self.adopted(others, frame - 1) if type(frame) is int and frame else frame

        return self._place(translated(others.values[place]))

    def _place(self, frame: Any) -> int:
        place = self._places.setdefault(repr(frame), len(self.values))
        if place == len(self.values):
            self.values.append(frame)
        return place

    def _filler(self, frame: Any, places: Iterator[int]) -> Filler:
        """Make a function that fills a frame from a list; places: the list's indices, in order."""
        filled = frame.copy()
        holes: list[tuple[Any, int]] = []
        inner: list[tuple[Any, Filler]] = []
        for name, item in frame.items() if type(frame) is dict else enumerate(frame):
            if type(item) is dict or type(item) is list:
                inner.append((name, self._filler(item, places)))
            elif type(item) is int:
                if item:
                    filled[name] = self.values[item - 1]
                else:
                    holes.append((name, next(places)))

        def fill(numbers: Sequence[float]) -> Any:
            made = filled.copy()
            for name, place in holes:
                made[name] = numbers[place]
            for name, make in inner:
                made[name] = make(numbers)
            return made

        return fill


class Segment:
    """Rows by key, and the frames that they are packed with.

    The columns of a row, separated by tabs, are the key, the stamp of the record, the stamp of the
    verified logits (empty without), and the parts of the record.
    """

    def __init__(self, path: Path | None, frames: Frames, rows: dict[str, str]) -> None:
        self.path = path
        self.frames = frames
        self.rows = rows
        # Keys of rows found valid, and the number of changes to rows since the file was read.
        self.found: set[str] = set()
        self.changed = 0
        self._known: dict[str, Any] = {}
        self._last: dict[str, tuple[str, Any]] = {}
        self._splits: dict[int, tuple[Any, str]] = {}
        # The row that was read last, and its columns.
        self._texts: tuple[str, list[str]] = ("", [])

    @classmethod
    def read(cls, path: Path) -> Segment | None:
        """Read a segment from a file; None if it is missing, damaged or of another version."""
        try:
            with path.open("rb") as file:
                stated = file.read(len(_HEAD) + len(_checksum(b"")))
                # Read line by line: holding the file twice would dominate a listing's memory.
                sha, lines = hashlib.sha256(), []
                for line in file:
                    sha.update(line)
                    lines.append(line[:-1].decode("ascii"))
        except (OSError, ValueError):
            return None
        if stated != _HEAD + _line_of(sha) or not lines:
            return None
        return cls(path, Frames(json.loads(lines[0])), {row[:64]: row for row in lines[1:]})

    def write(self, folder: Path) -> None:
        """Write the file, named by its checksum, and remove the file that was read."""
        self._splits.clear()
        body = "\n".join([_text(self.frames.values), *self.rows.values(), ""]).encode()
        checksum = _checksum(body)
        path = folder / f"{INDEX}-{checksum[:16].decode()}"
        write_whole(path, _HEAD + checksum + body)
        if self.path not in (None, path):
            self.path.unlink(missing_ok=True)
        self.path = path

    def add(self, key: str, stamp: Stamp | None, values: Mapping[str, Any]) -> Row:
        """Add the row of a record from the validated values of its file."""
        spec = {name: value for name, value in values["spec"].items() if name not in _SPEC_PARTS}
        parts = {"spec": spec, "state": {name: values.get(name) for name in _STATE}}
        parts |= {name: values["spec"].get(name) for name in _SPEC_PARTS}
        parts |= {name: values.get(name) or {} for name in _RECORD_PARTS}
        texts = [key, _stamp_text(stamp), "", *(self._packed(name, parts[name]) for name in _PARTS)]
        self.rows[key] = "\t".join(texts)
        self.changed += 1
        return Row(self, key)

    def _packed(self, name: str, value: Any) -> str:
        """Pack a part as text; a split object that several records share is packed once."""
        if name != "split":
            return self.frames.pack(value)
        if id(value) in self._splits:
            return self._splits[id(value)][1]
        text = self.frames.pack(value)
        if text.startswith("["):
            if len(self._splits) == _MOST_SPLITS:
                self._splits.clear()
            # Keep the object alive, so that no other gets its id.
            self._splits[id(value)] = value, text
        return text

    def take(self, other: Segment, keys: Iterable[str]) -> None:
        """Add missing rows from another segment, translated to the frames of this one."""
        places: dict[str, str] = {}
        for key in [key for key in keys if key not in self.rows]:
            head, *parts = other.rows[key].rsplit("\t", len(_PARTS))
            for number, part in enumerate(parts):
                if part.startswith("["):
                    place, *numbers = part[1:-1].split(",", 1)
                    if place not in places:
                        places[place] = str(self.frames.adopted(other.frames, int(place)))
                    parts[number] = f"[{','.join([places[place], *numbers])}]"
            self.rows[key] = "\t".join([head, *parts])
            self.changed += 1

    def text(self, key: str, name: str) -> str:
        """The text of a part in a row; caches columns, as parts of a record are read in turn."""
        row = self.rows[key]
        if self._texts[0] is not row:
            self._texts = row, row.split("\t")
        return self._texts[1][_FIRST + _PLACES[name]]

    def part(self, name: str, text: str) -> Any:
        """Unpack a part from its text in a row; the last value of each part is cached."""
        if name in _SHARED:
            if text not in self._known:
                self._known[text] = self.frames.unpack(text)
            return self._known[text]
        if self._last.get(name, ("", None))[0] != text:
            self._last[name] = text, self.frames.unpack(text)
        return self._last[name][1]


class Row:
    """One record in a segment; its parts are unpacked on access."""

    __slots__ = ("_key", "_segment")

    def __init__(self, segment: Segment, key: str) -> None:
        self._segment = segment
        self._key = key

    def record(self, spec: RunSpec | None = None) -> Record:
        """The record, which reads most parts lazily. spec: that of its key, if known."""
        segment = self._segment
        texts = segment.rows[self._key].split("\t", _FIRST + len(_EARLY))[_FIRST:-1]
        if spec is not None:
            state = segment.part("state", texts[_PLACES["state"]])
            return Record.reading(spec, state, self)
        values, state, *others = map(segment.part, _EARLY, texts)
        parts = zip(_SPEC_PARTS, others, strict=True)
        values = values | {name: value for name, value in parts if value is not None}
        return Record.reading(RunSpec.read(values, self._key), state, self)

    def __call__(self, part: str) -> Any:
        """A part by name."""
        return self._segment.part(part, self._segment.text(self._key, part))

    def entries(self, part: str, names: tuple[str, ...]) -> tuple[Any, ...]:
        """The named values of a part; None for missing ones."""
        text = self._segment.text(self._key, part)
        return self._segment.frames.reader(names)(text)

    @staticmethod
    def columns(
        rows: Iterable[Row], part: str, names: tuple[str, ...], absent: Any = None
    ) -> list[tuple[Any, ...]]:
        """The named values of many records, a tuple for each. absent: as in `Frames.reader`."""
        place = _FIRST + _PLACES[part]
        found: list[tuple[Any, ...]] = []
        for segment, members in itertools.groupby(rows, attrgetter("_segment")):
            read = segment.frames.reader(names, absent)
            texts = (segment.rows[row._key].split("\t", place + 1)[place] for row in members)
            found += map(read, texts)
        return found

    @property
    def file(self) -> Path | None:
        """The index file of the row; None if it is not in a file yet."""
        return self._segment.path

    def is_checked(self, stamp: Stamp | None) -> bool:
        """True if logits with this file stamp were already verified against the record."""
        known = self._segment.rows[self._key].split("\t", _FIRST)[2]
        return stamp is not None and known == _stamp_text(stamp)

    def check(self, stamp: Stamp | None) -> None:
        """Mark logits with this file stamp as verified; None if the record has no logits."""
        if stamp is not None and _is_settled(stamp):
            key, own, _, parts = self._segment.rows[self._key].split("\t", _FIRST)
            self._segment.rows[self._key] = "\t".join([key, own, _stamp_text(stamp), parts])
            self._segment.changed += 1


class Index:
    """The rows in a store's index files, and new rows to be added."""

    def __init__(self, folder: Path, segments: list[Segment], useless: Sequence[Path] = ()) -> None:
        """folder: the folder of the store; useless: damaged or outdated files of its index."""
        self._folder = folder
        self._segments = segments
        self._useless = useless
        self._new = Segment(None, Frames(), {})
        self._unsettled = Segment(None, Frames(), {})

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Load every undamaged index segment of a store."""
        found = {path: Segment.read(path) for path in sorted(index_files(folder))}
        whole = [segment for segment in found.values() if segment is not None]
        return cls(folder, whole, [path for path, segment in found.items() if segment is None])

    def find(self, key: str, stamp: Stamp | None) -> Row | None:
        """The row of a record file; None unless it was read from a file with this stamp."""
        if stamp is None:
            return None
        start = f"{key}\t{_stamp_text(stamp)}\t"
        for segment in self._segments:
            row = segment.rows.get(key)
            if row is not None and row.startswith(start):
                segment.found.add(key)
                return Row(segment, key)
        return None

    def add(self, key: str, stamp: Stamp | None, values: Mapping[str, Any]) -> Row:
        """Add the row of a valid record. stamp: of its file, taken before reading it."""
        segment = self._new if stamp and _is_settled(stamp) else self._unsettled
        return segment.add(key, stamp, values)

    def save(self, *, whole: bool) -> None:
        """Write new and changed rows, if there are enough and the folder can be written.

        whole: True if all record files were looked up, so that rows not found are obsolete.
        """
        with suppress(OSError):
            if len(self._new.rows) >= WORTH:
                old = self._gather(whole)
                self._new.write(self._folder)
                for path in {*old, *self._useless} - {self._new.path}:
                    path.unlink(missing_ok=True)
            for segment in self._segments:
                if segment.changed >= WORTH:
                    segment.write(self._folder)

    def _gather(self, whole: bool) -> list[Path]:
        """Merge small or mostly obsolete segments into the new one; returns their files."""
        old = []
        for segment in sorted(self._segments, key=lambda segment: len(segment.rows)):
            keys = segment.found if whole else segment.rows.keys()
            if len(keys) <= 2 * len(self._new.rows) or 2 * len(keys) < len(segment.rows):
                self._new.take(segment, [key for key in segment.rows if key in keys])
                self._segments.remove(segment)
                old += [segment.path] if segment.path else []
        return old


def index_files(folder: Path) -> Iterator[Path]:
    """The files of a store's index, valid or not."""
    return (path for path in folder.glob(f"{INDEX}*") if path.is_file())


def _count(item: Any) -> int:
    if type(item) is dict or type(item) is list:
        return sum(map(_count, item.values() if type(item) is dict else item))
    return int(type(item) is int and not item)


_text = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_read = json.JSONDecoder().raw_decode


def _stamp_text(stamp: Stamp | None) -> str:
    return " ".join(map(str, stamp)) if stamp else ""


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[:2]) <= time.time_ns() - SETTLED_SECONDS * 1e9


def _checksum(body: bytes) -> bytes:
    return _line_of(hashlib.sha256(body))


def _line_of(sha: hashlib._Hash) -> bytes:
    return sha.hexdigest().encode() + b"\n"
