"""A segment: an immutable file of feature rows, found by their keys without reading all of it.

`Segment.open` reads one, `parts_of_rows` and `parts_of_segments` return the parts of a new one:
`MAGIC`, rows in order of computation, the sorted index, costs of computations, the table of
buckets with their checksums, a head in JSON, and `TAIL`. A row is served only if its own checksum
matches, which covers its key, form, bytes and cost; a row is missing only if the checksum of its
bucket matches.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fewshot_bench.profiling.cost import Cost

MAGIC = b"fsbench-features"
KEY = 32
TAIL = struct.Struct(f"<QQ{KEY}s{len(MAGIC)}s")
COST = struct.Struct("<ddqqqqq")
INDEX = np.dtype([("key", f"S{KEY}"), ("check", "<u8"), ("place", "<u4"), ("cost", "<u4")])
# Approximate keys per bucket; index entries per block of a read; entries between separate reads.
BUCKET, BLOCK, GAP = 64, 1 << 14, 256
COPY_BYTES = 1 << 20
# Limits: bits of the table, enough for 2**26 keys; bytes of table and head.
MOST_BITS, MOST_BODY = 20, 1 << 23
NARROW = ("bfloat16", "float16")
KINDS = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
Array = np.ndarray[Any, Any]


class DamagedSegment(Exception):
    """A segment that must not be used; the text is the reason."""


@dataclass(frozen=True)
class Form:
    """Form of rows: their width, their dtype, and the dtype in which they are kept."""

    width: int
    dtype: str
    kept: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a kept row."""
        return self.width * KINDS[self.kept]

    @property
    def text(self) -> bytes:
        """The form as bytes, for the checksum of every row."""
        return f"{self.width} {self.dtype} {self.kept} ".encode()


@dataclass(frozen=True)
class Label:
    """The data set and the role (of the images) that a segment is listed under, and its shard.

    shard: empty in files of earlier versions.
    """

    dataset: str
    role: str
    shard: str = ""


def narrowed(rows: Array, form: Form) -> tuple[Array, Form]:
    """Rows (n, bytes) in 16 bits if all survive the round trip bit for bit, else unchanged."""
    if form.dtype != "float32" or not rows.size:
        return rows, form
    bits = rows.view("<u4")
    if not (bits & 0xFFFF).any():
        return _bytes_of((bits >> 16).astype("<u2")), Form(form.width, form.dtype, "bfloat16")
    with np.errstate(over="ignore", invalid="ignore"):
        half = rows.view("<f4").astype("<f2")
        if np.array_equal(half.astype("<f4").view("<u4"), bits):
            return _bytes_of(half), Form(form.width, form.dtype, "float16")
    return rows, form


def widened(rows: Array, form: Form) -> Array:
    """The inverse of `narrowed`."""
    if form.kept == form.dtype:
        return rows
    if form.kept == "bfloat16":
        return _bytes_of(rows.view("<u2").astype("<u4") << 16)
    return _bytes_of(rows.view("<f2").astype("<f4"))


def _bytes_of(values: Array) -> Array:
    return np.ascontiguousarray(values).view(np.uint8)


def pack_cost(cost: Cost, rows: int) -> bytes:
    """Pack the cost of computing `rows` rows; struct.error if a count is too large."""
    counts = cost.images, cost.text_tokens, cost.flops, cost.uncounted
    return COST.pack(cost.wall, cost.cpu, *counts, rows)


def unpack_cost(packed: bytes) -> tuple[Cost, int]:
    """The inverse of `pack_cost`."""
    wall, cpu, images, tokens, flops, uncounted, rows = COST.unpack(packed)
    return Cost(wall, cpu, images, tokens, flops, uncounted), rows


def _memory_of(values: Array) -> memoryview:
    return memoryview(values.data).cast("B")


def _check(key: bytes, about: bytes, row: bytes | memoryview) -> int:
    """Checksum of a row; about: its form and its cost."""
    digest = hashlib.sha256(b"".join((key, about, row))).digest()
    return int.from_bytes(digest[:8], "little")


def parts_of_rows(
    keys: Sequence[bytes], rows: Array, cost: bytes, form: Form, label: Label
) -> list[bytes | memoryview]:
    """A segment of the rows (n, bytes) of one computation, part by part."""
    data, size = _memory_of(np.ascontiguousarray(rows)), form.row_bytes
    index = np.zeros(len(keys), INDEX)
    index["key"] = keys
    index["place"] = np.arange(len(keys))
    about = form.text + cost
    index["check"] = [
        _check(key, about, data[place * size : (place + 1) * size])
        for place, key in enumerate(keys)
    ]
    return [MAGIC, data, _ending(index, len(keys), cost, form, label)]


def _ending(index: Array, rows: int, costs: bytes, form: Form, label: Label) -> bytes:
    """All bytes after the rows; the first of several entries with one key is kept."""
    index = index[np.argsort(index["key"], kind="stable")]
    index = index[np.concatenate([[True], index["key"][1:] != index["key"][:-1]])]
    bits = max(0, math.ceil(math.log2(len(index) / BUCKET)))
    table = np.searchsorted(_buckets(index["key"], bits), np.arange(2**bits + 1)).astype("<u4")
    head = {
        "rows": rows,
        "keys": len(index),
        "bits": bits,
        "costs": len(costs) // COST.size,
    } | {**dataclasses.asdict(form), **dataclasses.asdict(label)}
    entries = index.tobytes()
    buckets = table.tobytes() + _sums(entries, table).tobytes()
    body = buckets + json.dumps(head).encode()
    tail = TAIL.pack(len(buckets), len(body), hashlib.sha256(body).digest(), MAGIC)
    return entries + costs + body + tail


def _buckets(keys: Array, bits: int) -> Array:
    """The bucket of each key: its first bits."""
    first = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY)[:, :4]
    return np.ascontiguousarray(first).view(">u4")[:, 0].astype(np.int64) >> (32 - bits)


def _sums(entries: bytes, edges: Array) -> Array:
    """(n,) CRC-32 of each of n buckets. edges: (n + 1,) number of the first entry of each."""
    view, size = memoryview(entries), INDEX.itemsize
    places = ((edges.astype(np.int64) - int(edges[0])) * size).tolist()
    sums = [zlib.crc32(view[low:high]) for low, high in itertools.pairwise(places)]
    return np.array(sums, "<u4")


def parts_of_segments(segments: Sequence[Segment], files: Sequence[IO[bytes]]) -> Iterator[bytes]:
    """Merge segments of one form into one, part by part; raises DamagedSegment or OSError."""
    yield MAGIC
    indices, costs, rows = [], b"", 0
    for segment, file in zip(segments, files, strict=True):
        size = segment.rows * segment.form.row_bytes
        for start in range(0, size, COPY_BYTES):
            yield _read(file, len(MAGIC) + start, min(COPY_BYTES, size - start))
        index = np.frombuffer(segment.entries(file), INDEX).copy()
        index["place"] += rows
        index["cost"] += len(costs) // COST.size
        indices.append(index)
        costs += _read(file, segment.costs_at, segment.cost_count * COST.size)
        rows += segment.rows
    like = segments[0]
    yield _ending(np.concatenate(indices), rows, costs, like.form, like.label)


def parts_of_sound_rows(segment: Segment, file: IO[bytes]) -> Iterator[bytes]:
    """The sound rows of a damaged segment as a new one, part by part.

    DamagedSegment if no row is as it was written, or OSError.
    """
    yield MAGIC
    index, form, kept, rows = segment.sound_entries(file), segment.form, [], 0
    step = max(1, COPY_BYTES // form.row_bytes)
    for start in range(0, len(index), step):
        part = index[start : start + step]
        block = np.empty((len(part), form.row_bytes), np.uint8)
        good = np.array(segment.take(file, part, np.arange(len(part)), block)[0], bool)
        yield block[good].tobytes()
        part = part[good]
        part["place"] = rows + np.arange(len(part))
        rows += len(part)
        kept.append(part)
    if not rows:
        raise DamagedSegment("none of its rows is as it was written")
    costs = _read(file, segment.costs_at, segment.cost_count * COST.size)
    yield _ending(np.concatenate(kept), rows, costs, form, segment.label)


@dataclass(frozen=True, eq=False)
class Segment:
    """The part of a file that is held in memory: its head and the table of buckets.

    table: (2**bits + 1,) the first entry of each bucket. sums: (2**bits,) checksums of the buckets,
    empty in files of earlier versions.
    """

    path: Path
    rows: int
    keys: int
    bits: int
    cost_count: int
    form: Form
    label: Label
    table: Array
    sums: Array
    size: int

    @classmethod
    def open(cls, path: Path) -> Segment:
        """The segment of a file; DamagedSegment, or OSError where it cannot be read."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            before = size - TAIL.size
            if before < 0:
                raise DamagedSegment("it is cut short")
            if _read(file, 0, len(MAGIC)) != MAGIC:
                raise DamagedSegment("its beginning is not the one that was written")
            length, body_size, digest, magic = TAIL.unpack(_read(file, before, TAIL.size))
            if magic != MAGIC or not length <= body_size <= min(before, MOST_BODY):
                raise DamagedSegment("its end is not the one that was written")
            body = _read(file, before - body_size, body_size)
        if hashlib.sha256(body).digest() != digest:
            raise DamagedSegment("its head is not the one that was written")
        try:
            head = json.loads(body[length:])
            form = Form(head["width"], head["dtype"], head["kept"])
            label = Label(head["dataset"], head["role"], head.get("shard", ""))
            counts = head["rows"], head["keys"], head["bits"], head["costs"]
            edges = 2 ** min(head["bits"], MOST_BITS) + 1
            buckets = np.frombuffer(body[:length], "<u4")
            found = cls(path, *counts, form, label, buckets[:edges], buckets[edges:], size)
            end = found.costs_at + found.cost_count * COST.size + body_size + TAIL.size
            whole = end == size and found.is_possible()
        except (ValueError, LookupError, TypeError, RecursionError):
            whole = False
        if not whole:
            raise DamagedSegment("its head describes another file")
        if label.shard not in ("", path.parent.name):
            raise DamagedSegment(f"it was written to the folder {label.shard}")
        return found

    def is_possible(self) -> bool:
        """True if the values in the head are valid and consistent."""
        counts = self.rows, self.keys, self.bits, self.cost_count, self.form.width
        return (
            all(type(count) is int and count >= 0 for count in counts)
            and all(type(text) is str for text in dataclasses.astuple(self.label))
            and self.form.dtype in KINDS
            and self.form.kept in (self.form.dtype, *NARROW)
            and self.bits <= MOST_BITS
            and len(self.table) == 2**self.bits + 1
            and len(self.sums) in (0, 2**self.bits)
            and int(self.table[-1]) == self.keys
            and bool((np.diff(self.table.astype(np.int64)) >= 0).all())
        )

    @property
    def index_at(self) -> int:
        """The offset of the index in the file."""
        return len(MAGIC) + self.rows * self.form.row_bytes

    @property
    def costs_at(self) -> int:
        """The offset of the costs in the file."""
        return self.index_at + self.keys * INDEX.itemsize

    def entries(self, file: IO[bytes], first: int = 0, last: int | None = None) -> bytes:
        """The index entries of the buckets `first` to `last`, by default all.

        DamagedSegment if their checksums differ.
        """
        edges = self.table[first:] if last is None else self.table[first : last + 2]
        start, end = int(edges[0]) * INDEX.itemsize, int(edges[-1]) * INDEX.itemsize
        data = _read(file, self.index_at + start, end - start)
        if len(self.sums):
            sums = self.sums[first : first + len(edges) - 1]
            if not np.array_equal(_sums(data, edges), sums):
                raise DamagedSegment("its index is not the one that was written")
        return data

    def sound_entries(self, file: IO[bytes]) -> Array:
        """The index entries of all buckets whose checksums match, in the order of their rows."""
        found = [np.empty(0, INDEX)]
        for bucket in range(2**self.bits):
            with suppress(DamagedSegment):
                found.append(np.frombuffer(self.entries(file, bucket, bucket), INDEX))
        index = np.concatenate(found)
        index = index[(index["place"] < self.rows) & (index["cost"] < self.cost_count)]
        return index[np.argsort(index["place"], kind="stable")]

    def find(self, file: IO[bytes], keys: Array) -> Array:
        """(m,) entries of the index for sorted keys; `place` is `rows` for missing keys."""
        found = np.zeros(len(keys), INDEX)
        found["key"], found["place"] = keys, self.rows
        buckets = _buckets(keys, self.bits)
        starts, ends = self.table[buckets].astype(np.int64), self.table[buckets + 1]
        # Adjacent buckets are read at once, one block at most.
        apart = (starts[1:] > ends[:-1] + GAP) | (starts[1:] // BLOCK != starts[:-1] // BLOCK)
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(keys)]
        wanted, numbers = keys.tobytes(), buckets.tolist()
        for first, last in itertools.pairwise(edges):
            data = self.entries(file, numbers[first], numbers[last - 1])
            if last - first == 1:
                _find_one(data, wanted[first * KEY : last * KEY], found, first)
            elif data:
                _find_many(np.frombuffer(data, INDEX), found[first:last])
        return found

    def take(
        self, file: IO[bytes], entries: Array, places: Array, into: Array
    ) -> tuple[list[bool], list[bytes]]:
        """Read the rows of `entries` to `places`, ascending, of `into` (n, row_bytes).

        Returns for each row whether its checksum matches, and its packed cost.
        """
        numbers, inverse = np.unique(entries["cost"], return_inverse=True)
        known = [self._cost(file, int(number)) for number in numbers]
        costs = [known[number] for number in inverse.tolist()]
        rows, size = entries["place"].astype(np.int64), self.form.row_bytes
        together = (np.diff(rows) == 1) & (np.diff(places) == 1)
        edges = [0, *(np.flatnonzero(~together) + 1).tolist(), len(rows)]
        out = _memory_of(into)
        for first, last in itertools.pairwise(edges):
            start, count = int(places[first]) * size, (last - first) * size
            _read_into(file, len(MAGIC) + int(rows[first]) * size, out[start : start + count])
        wanted = zip(
            *(entries["key"].tolist(), entries["check"].tolist(), costs, places.tolist()),
            strict=True,
        )
        text = self.form.text
        good = [
            _check(key.ljust(KEY, b"\0"), text + cost, out[place * size :][:size]) == check
            for key, check, cost, place in wanted
        ]
        return good, costs

    def _cost(self, file: IO[bytes], number: int) -> bytes:
        if number >= self.cost_count:
            raise DamagedSegment("its index is not the one that was written")
        return _read(file, self.costs_at + number * COST.size, COST.size)


def _find_one(data: bytes, key: bytes, found: Array, place: int) -> None:
    """The entry of one key in a bucket."""
    at = data.find(key)
    while at > 0 and at % INDEX.itemsize:
        at = data.find(key, at + 1)
    if at >= 0:
        found[place] = np.frombuffer(data, INDEX, 1, at)[0]


def _find_many(index: Array, found: Array) -> None:
    """The entries of sorted keys in a part of the index."""
    places = np.searchsorted(index["key"], found["key"]).clip(max=len(index) - 1)
    there = index["key"][places] == found["key"]
    found[there] = index[places[there]]


def _read(file: IO[bytes], start: int, size: int) -> bytes:
    """Read `size` bytes at offset `start`; DamagedSegment if the file ends before."""
    if hasattr(os, "pread"):
        found = os.pread(file.fileno(), size, start)
        if len(found) == size:
            return found
    data = bytearray(size)
    _read_into(file, start, memoryview(data))
    return bytes(data)


def _read_into(file: IO[bytes], start: int, into: memoryview) -> None:
    """Fill `into` from offset `start` of a file; DamagedSegment if it ends before."""
    file.seek(start)
    while into:
        count = file.readinto(into)  # type: ignore[attr-defined]
        if not count:
            raise DamagedSegment("it is cut short")
        into = into[count:]
