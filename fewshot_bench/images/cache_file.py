"""The file format of decoded images, written and read.

Pixels (n, 3, h, w) uint8; one line of JSON with a checksum of each chunk of rows; n SHA-256 of
image files; at the end the length and SHA-256 of the bytes between pixels and tail, and `MAGIC`.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.profiling.cost import Cost
from fewshot_bench.utils.prefetch import spread

MAGIC = b"fsbench-pixels-1"
SHA = 32
TAIL = struct.Struct(f"<Q{SHA}s{len(MAGIC)}s")


def pack_description(head: Mapping[str, Any], digests: Iterable[bytes]) -> bytes:
    """All bytes after the pixels; `head` has at least their `shape`."""
    body = json.dumps(head).encode() + b"\n" + b"".join(digests)
    return body + TAIL.pack(len(body), hashlib.sha256(body).digest(), MAGIC)


def read_description(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The head and the joined digests of the images; None for a damaged or truncated file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TAIL.size))
            length, digest, magic = TAIL.unpack(file.read(TAIL.size))
            start = end - TAIL.size - length
            if magic != MAGIC or start < 0:
                return None
            file.seek(start)
            body = file.read(length)
        if hashlib.sha256(body).digest() != digest:
            return None
        line, _, digests = body.partition(b"\n")
        head: dict[str, Any] = json.loads(line)
        if math.prod(head["shape"]) != start:
            return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError, struct.error):
        return None
    return head, digests


CHUNK_BYTES = 1 << 20
BLOCK = 4096
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def check_of(data: bytes | memoryview) -> int:
    """CRC-32 of the sum of every block of `BLOCK` bytes, of the sums over blocks, and of the rest.

    It detects disk faults (flipped bits, lost or misplaced blocks) at the speed of memory, which a
    cryptographic digest does not reach.
    """
    values = np.frombuffer(data, np.uint8)
    whole = len(values) // BLOCK * BLOCK
    words = values[:whole].view("<u8").reshape(-1, BLOCK // 8)
    blocks = zlib.crc32(words.sum(axis=1, dtype=np.uint64).data)
    across = zlib.crc32(words.sum(axis=0, dtype=np.uint64).data, blocks)
    return zlib.crc32(values[whole:].data, across)


@dataclass(frozen=True, eq=False)
class Segment:
    """One file: rows (n, 3, h, w), checked in chunks on first use; price: cost of one row."""

    path: Path
    rows: Pixels
    digests: tuple[bytes, ...]
    chunk: int
    checks: tuple[int, ...]
    price: Cost
    mapped: mmap.mmap
    _good: set[int] = field(default_factory=set)

    def is_good(self, indices: Sequence[int]) -> bool:
        """True if the chunks of these rows match their checksums; good chunks are checked once."""
        unchecked = sorted({index // self.chunk for index in indices} - self._good)
        good = all(spread(self._check, unchecked, size=4))
        if good:
            self._good.update(unchecked)
        return good

    def _check(self, number: int) -> bool:
        part = self.rows[number * self.chunk : (number + 1) * self.chunk]
        return check_of(part.data) == self.checks[number]

    def release(self) -> None:
        """Release the memory of the mapping; later reads page it in again.

        Otherwise a process that reads a large cache seems to need that much memory.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def open_segment(path: Path, transform: str, shape: tuple[int, ...]) -> Segment | None:
    """A segment of images `shape` under `transform`; None if it is damaged or does not match."""
    read = read_description(path)
    if read is None:
        return None
    head, joined = read
    if head.get("transform") != transform or tuple(head["shape"][1:]) != shape:
        return None
    try:
        with path.open("rb") as file:
            # A private mapping: arrays on it may be handed to torch, and never reach the file.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        values = np.frombuffer(mapped, np.uint8, math.prod(head["shape"]))
    except (OSError, ValueError):
        return None
    count = head["shape"][0]
    price = Cost(head["wall"] / count, head["cpu"] / count)
    digests = tuple(joined[start : start + SHA] for start in range(0, len(joined), SHA))
    rows: Pixels = values.reshape(head["shape"])
    return Segment(path, rows, digests, head["chunk"], tuple(head["checks"]), price, mapped)


class SegmentWriter:
    """A segment of images `shape` that is being written to the temporary file `path`."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.digests: list[bytes] = []
        self.cost = Cost()
        self._shape = shape
        self._chunk = max(1, CHUNK_BYTES // math.prod(shape))
        self._path = path
        self._file = path.open("xb")
        self._written: set[bytes] = set()
        self._pending: list[bytes] = []
        self._checks: list[int] = []

    def add(self, digest: bytes, pixels: Pixels, price: Cost) -> None:
        """Append one image, unless already written; OSError if the disk is full."""
        if digest in self._written:
            return
        self._written.add(digest)
        data = np.ascontiguousarray(pixels).tobytes()
        self._file.write(data)
        self._pending.append(data)
        self.digests.append(digest)
        self.cost += price
        if len(self.digests) % self._chunk == 0:
            self._end_chunk()

    def _end_chunk(self) -> None:
        self._checks.append(check_of(b"".join(self._pending)))
        self._pending.clear()

    def finish(self, path: Path, about: dict[str, Any]) -> None:
        """Write the description of the rows and rename the file; OSError on a full disk."""
        if len(self.digests) % self._chunk:
            self._end_chunk()
        facts = {
            "shape": [len(self.digests), *self._shape],
            "chunk": self._chunk,
            "checks": self._checks,
            "wall": self.cost.wall,
            "cpu": self.cost.cpu,
        }
        self._file.write(pack_description(facts | about, self.digests))
        self._file.close()
        os.replace(self._path, path)

    def abandon(self) -> None:
        """Close and remove the temporary file, if it still exists."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
