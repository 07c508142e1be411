"""The contents of a store's record files in few files, so that listing them opens no record.

`Index` is the entry. Its files may be deleted at any time, and nothing is lost: a row counts only
while the stamp of its record file is the one that it had when it was read and checked, and a file
that is not whole counts as none. A file is written once, under a name of its own; what is new goes
into another one, and small ones are put together, so that a row is written a few times at most.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import SCHEMA, Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.record_files import Stamp
from fewshot_bench.utils.files import write_whole
from fewshot_bench.utils.version import __version__

INDEX = "records.index"
# Fewer new rows are not worth a file.
WORTH = 64
# Two changes within one tick of the file system's clock can leave the same stamp.
SETTLED_SECONDS = 2.0
# What decides whether a file is a valid record; an index of another version is no help.
_READER = [2, __version__, SCHEMA, [field.name for field in dataclasses.fields(RunSpec)]]
_HEAD = f"fsbench index {json.dumps(_READER)}\n".encode()
# Parts of a record in a row. Those of the specification are mostly equal between records.
_SPEC_PARTS = ("options", "overrides", "data")
_RECORD_PARTS = (*("split", "metrics", "footprint", "timings", "environment", "notes", "digests"),)
_STATE = ("status", "error", "incidents")
# Equal parts of several records are one object.
_SHARED = frozenset({*_SPEC_PARTS, "split"})
_PARTS = ("spec", "state", *_SPEC_PARTS, *_RECORD_PARTS)
_FIRST = 3


class Frames:
    """Values without their numbers, each kept once: parts of records differ in numbers alone.

    A part is stored as the place of its frame and its numbers. In a frame, 0 stands for a number
    and n for the value in place n - 1, which holds none.
    """

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.values = list(values)
        self._places = {_text(value): place for place, value in enumerate(self.values)}
        self._seen: set[int] = set()

    def pack(self, value: Any) -> str:
        """A value as JSON, which `unpack` reads: an object, or frame and numbers."""
        numbers: list[float] = []
        frame = self._frame(value, numbers)
        text = _text(frame)
        place = self._places.get(text)
        if place is None:
            # What stands there once needs no frame.
            if hash(text) not in self._seen:
                self._seen.add(hash(text))
                return _text(value)
            place = self._place(text, frame)
        return _text([place, *numbers])

    def unpack(self, text: bytes) -> Any:
        """The inverse; what holds no number is the same object each time."""
        found = json.loads(text)
        if type(found) is not list:
            return found
        place, *numbers = found
        frame = self.values[place]
        return self._filled(frame, iter(numbers)) if numbers else frame

    def _frame(self, value: Any, numbers: list[float]) -> Any:
        kind = type(value)
        if kind is int or kind is float:
            numbers.append(value)
            return 0
        if kind is not dict and kind is not list:
            return value
        before, items = len(numbers), value.items() if kind is dict else enumerate(value)
        made: Any = {} if kind is dict else [None] * len(value)
        bare = []
        for name, item in items:
            count = len(numbers)
            made[name] = self._frame(item, numbers)
            if len(numbers) == count and type(item) in (dict, list):
                bare.append(name)
        if len(numbers) > before:
            for name in bare:
                made[name] = 1 + self._place(_text(made[name]), made[name])
        return made

    def adopted(self, others: Frames, place: int) -> int:
        """The place here of a frame of others."""

        def translated(frame: Any) -> Any:
            if type(frame) is dict:
                return {name: translated(item) for name, item in frame.items()}
            if type(frame) is list:
                return [translated(item) for item in frame]
            return 1 + self.adopted(others, frame - 1) if type(frame) is int and frame else frame

        frame = translated(others.values[place])
        return self._place(_text(frame), frame)

    def _place(self, text: str, frame: Any) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.values)
            self.values.append(frame)
        return place

    def _filled(self, frame: Any, numbers: Iterator[float]) -> Any:
        kind = type(frame)
        if kind is str:
            return frame
        if kind is dict:
            return {name: self._filled(item, numbers) for name, item in frame.items()}
        if kind is list:
            return [self._filled(item, numbers) for item in frame]
        if kind is int:
            return self.values[frame - 1] if frame else next(numbers)
        return frame


class Segment:
    """Rows by key, and the frames that they are stored with.

    A row is key, stamp of the record, stamp of the logits that were checked, or nothing, and the
    parts of the record, with tabs between them.
    """

    def __init__(self, path: Path | None, frames: Frames, rows: dict[str, bytes]) -> None:
        self.path = path
        self.frames = frames
        self.rows = rows
        # Keys of rows that are valid, and how many are not as they are in the file.
        self.found: set[str] = set()
        self.changed = 0
        self._known: dict[bytes, Any] = {}

    @classmethod
    def read(cls, path: Path) -> Segment | None:
        """That of a file; None where it is missing, damaged or of another version."""
        start = len(_HEAD) + len(_checksum(b""))
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if content[:start] != _HEAD + _checksum(memoryview(content)[start:]):
            return None
        _, _, first, *rows = content.split(b"\n")[:-1]
        del content
        return cls(path, Frames(json.loads(first)), {row[:64].decode(): row for row in rows})

    def write(self, folder: Path) -> None:
        """Write its file, named by its content, and remove the one that it was read from."""
        body = b"\n".join([_text(self.frames.values).encode(), *self.rows.values(), b""])
        checksum = _checksum(body)
        path = folder / f"{INDEX}-{checksum[:16].decode()}"
        write_whole(path, _HEAD + checksum + body)
        if self.path not in (None, path):
            self.path.unlink(missing_ok=True)
        self.path = path

    def add(self, key: str, stamp: Stamp | None, values: Mapping[str, Any]) -> Row:
        """The row of a record from the values of its file, which were checked."""
        spec = {name: value for name, value in values["spec"].items() if name not in _SPEC_PARTS}
        parts = {"spec": spec, "state": {name: values.get(name) for name in _STATE}}
        parts |= {name: values["spec"].get(name) for name in _SPEC_PARTS}
        parts |= {name: values.get(name) or {} for name in _RECORD_PARTS}
        texts = [key, _stamp_text(stamp), "", *(self.frames.pack(parts[name]) for name in _PARTS)]
        self.rows[key] = "\t".join(texts).encode()
        self.changed += 1
        return Row(self, key)

    def take(self, other: Segment, keys: Iterable[str]) -> None:
        """Add rows of another segment that are not here, in the frames of this one."""
        places: dict[int, int] = {}
        for key in [key for key in keys if key not in self.rows]:
            head, *parts = other.rows[key].rsplit(b"\t", len(_PARTS))
            for number, part in enumerate(parts):
                if part.startswith(b"["):
                    end = part.find(b",") if b"," in part else -1
                    old = int(part[1:end])
                    if old not in places:
                        places[old] = self.frames.adopted(other.frames, old)
                    parts[number] = b"[%d%s" % (places[old], part[end:])
            self.rows[key] = b"\t".join([head, *parts])
            self.changed += 1

    def part(self, key: str, name: str) -> Any:
        """A part of a row."""
        place = _FIRST + _PARTS.index(name)
        text = self.rows[key].split(b"\t", place + 1)[place]
        if name not in _SHARED:
            return self.frames.unpack(text)
        if text not in self._known:
            self._known[text] = self.frames.unpack(text)
        return self._known[text]


class Row:
    """One record in a segment; its parts are read when they are asked for."""

    __slots__ = ("_key", "_segment")

    def __init__(self, segment: Segment, key: str) -> None:
        self._segment = segment
        self._key = key

    def record(self) -> Record:
        """The record, which asks this for most of its parts."""
        values = {**self("spec"), **{name: self(name) for name in _SPEC_PARTS}}
        spec = RunSpec.read({n: v for n, v in values.items() if v is not None}, self._key)
        return Record.reading(spec, self("state"), self)

    def __call__(self, part: str) -> Any:
        """A part by name."""
        return self._segment.part(self._key, part)

    @property
    def file(self) -> Path | None:
        """The file of the index that it is from."""
        return self._segment.path

    @property
    def checked(self) -> Stamp | None:
        """The stamp of the logits when they were found to be those of the record."""
        text = self._segment.rows[self._key].split(b"\t", _FIRST)[2]
        return _stamp(text) if text else None

    def check(self, stamp: Stamp) -> None:
        """Remember that logits of this stamp are those of the record."""
        key, own, _, parts = self._segment.rows[self._key].split(b"\t", _FIRST)
        text = _stamp_text(stamp).encode() if _is_settled(stamp) else b""
        self._segment.rows[self._key] = b"\t".join([key, own, text, parts])
        self._segment.changed += 1


class Index:
    """The rows that a store has, and those to be added to them."""

    def __init__(self, folder: Path, segments: list[Segment], useless: Sequence[Path] = ()) -> None:
        """folder: that of the store; useless: files of its index that are none."""
        self._folder = folder
        self._segments = segments
        self._useless = useless
        self._new = Segment(None, Frames(), {})
        self._unsettled = Segment(None, Frames(), {})

    @classmethod
    def load(cls, folder: Path) -> Index:
        """All that is whole in the files of a store's folder."""
        found = {path: Segment.read(path) for path in sorted(index_files(folder))}
        whole = [segment for segment in found.values() if segment is not None]
        return cls(folder, whole, [path for path, segment in found.items() if segment is None])

    def find(self, key: str, stamp: Stamp | None) -> Row | None:
        """The row of a record file whose stamp is the one that it was read under."""
        if stamp is None:
            return None
        start = f"{key}\t{_stamp_text(stamp)}\t".encode()
        for segment in self._segments:
            row = segment.rows.get(key)
            if row is not None and row.startswith(start):
                segment.found.add(key)
                return Row(segment, key)
        return None

    def add(self, key: str, stamp: Stamp | None, values: Mapping[str, Any]) -> Row:
        """A row of a valid record. stamp: that of its file before that was read."""
        segment = self._new if stamp and _is_settled(stamp) else self._unsettled
        return segment.add(key, stamp, values)

    def save(self, *, whole: bool) -> None:
        """Write what is new, if that is worth it and the folder can be written.

        whole: whether all record files were looked for, so that rows which were not found are of
        no use any more.
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
        """Put files together that have little beside what is new; those that are to go then."""
        old = []
        for segment in sorted(self._segments, key=lambda segment: len(segment.rows)):
            keys = segment.found if whole else segment.rows.keys()
            if len(keys) <= 2 * len(self._new.rows) or 2 * len(keys) < len(segment.rows):
                self._new.take(segment, [key for key in segment.rows if key in keys])
                self._segments.remove(segment)
                old += [segment.path] if segment.path else []
        return old


def index_files(folder: Path) -> Iterator[Path]:
    """The files of a store's index, whatever is in them."""
    return (path for path in folder.glob(f"{INDEX}*") if path.is_file())


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _stamp_text(stamp: Stamp | None) -> str:
    return " ".join(map(str, stamp)) if stamp else ""


def _stamp(text: bytes) -> Stamp:
    changed, inode_changed, size, inode = map(int, text.split())
    return changed, inode_changed, size, inode


def _is_settled(stamp: Stamp) -> bool:
    return max(stamp[:2]) <= time.time_ns() - SETTLED_SECONDS * 1e9


def _checksum(body: bytes | memoryview) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n"
