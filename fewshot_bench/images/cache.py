"""Decoded images on disk, by the digest of their file and by the transform.

`ImageCache` is the entry point. Each pass over a list of images writes those that it had to decode
into one file (a segment), from which all other lists with the same images read them. A segment has
pixels (n, 3, h, w) uint8; one line of JSON with a checksum of each chunk of rows; n SHA-256 of
image files; at the end the length and SHA-256 of the bytes between pixels and tail, and `MAGIC`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import math
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.api.backbone import LoadedBackbone
from fewshot_bench.images.decode import EncodedFiles
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import IMAGES, CacheFile
from fewshot_bench.utils.files import temporary_name
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.prefetch import spread

FORMAT = 1
ADDRESS = " at 0x"
MAGIC = b"fsbench-pixels-1"
SHA = 32
TAIL = struct.Struct(f"<Q{SHA}s{len(MAGIC)}s")
CHUNK_BYTES = 1 << 20
BLOCK = 4096
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def transform_of(backbone: LoadedBackbone, also: Mapping[str, str] | None = None) -> str | None:
    """Everything that pixels depend on besides the image files; None if that is unknown.

    also: other facts by name, such as the orientation.
    """
    steps = getattr(backbone, "_steps", None)
    described = [_describe(step) for step in steps] if steps is not None else [ADDRESS]
    if any(ADDRESS in text for text in described):
        return None
    facts = {"steps": described, "size": list(backbone.image_size), "decoder": decoder()}
    return json.dumps(facts | {"format": FORMAT, **(also or {})}, sort_keys=True)


@functools.cache
def decoder() -> tuple[str, ...]:
    """Versions of the libraries that decode and resize."""
    installed = (f"{name} {version(name)}" for name in ("torchvision", "open_clip_torch"))
    return (*decoder_versions(), *installed)


def _describe(step: Any) -> str:
    """Type and settings of a step; contains ADDRESS if it is not the same in every process."""
    if isinstance(step, functools.partial) or inspect.ismethod(step):
        return ADDRESS
    name = getattr(step, "__qualname__", "")
    if name:
        return repr(step) if "<" in name else f"{step.__module__}.{name}"
    if not hasattr(step, "__dict__"):
        return f"{type(step).__qualname__} {step!r}"
    # Private attributes of torch modules are empty without weights, submodules and hooks.
    settings = [(k, v) for k, v in sorted(vars(step).items()) if v or not k.startswith("_")]
    return f"{type(step).__module__}.{type(step).__qualname__} {settings!r}"


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
        self.digests: dict[bytes, None] = {}
        self._cost = Cost()
        self._shape = shape
        self._chunk = max(1, CHUNK_BYTES // math.prod(shape))
        self._path = path
        self._file = path.open("xb")
        self._pending: list[bytes] = []
        self._checks: list[int] = []

    def add(self, digest: bytes, pixels: Pixels, price: Cost) -> None:
        """Append one image, unless already written; OSError if the disk is full."""
        if digest in self.digests:
            return
        self.digests[digest] = None
        self._cost += price
        self._pending.append(np.ascontiguousarray(pixels).tobytes())
        if len(self._pending) == self._chunk:
            self._write_chunk()

    def _write_chunk(self) -> None:
        chunk = b"".join(self._pending)
        self._file.write(chunk)
        self._checks.append(check_of(chunk))
        self._pending.clear()

    def finish(self, path: Path, about: dict[str, Any]) -> None:
        """Write the description of the rows and rename the file; OSError on a full disk."""
        if self._pending:
            self._write_chunk()
        facts = {
            "shape": [len(self.digests), *self._shape],
            "chunk": self._chunk,
            "checks": self._checks,
            "wall": self._cost.wall,
            "cpu": self._cost.cpu,
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


class ImageCache:
    """Decoded images (3, h, w) under one transform, in the user's cache folder."""

    def __init__(self, transform: str, size: tuple[int, int], name: str) -> None:
        """`name` is the data set that newly written files are listed under."""
        # Why images are not cached, which costs only time.
        self.problem = ""
        self._name = name
        self._transform = transform
        self._shape = (3, *size)
        name_of_folder = hashlib.sha256(transform.encode()).hexdigest()[:16]
        self._folder = cache_dir.cache_root() / IMAGES / name_of_folder
        self._rows: dict[bytes, tuple[Segment, int]] = {}
        self._seen: set[Path] = set()
        self._lock = threading.Lock()

    def look(self, digests: Iterable[bytes]) -> list[bytes]:
        """Digests of images that are not cached; marks the files with the others as used.

        Opens files that other processes wrote since the last call; damaged files are removed.
        """
        wanted = list(dict.fromkeys(digests))
        if not all(digest in self._rows for digest in wanted):
            for file in cache_dir.files(IMAGES, self._folder.parent):
                is_ours = file.path.parent == self._folder and not file.temporary
                if is_ours and file.path not in self._seen:
                    self._open(file.path)
        for path in {self._rows[d][0].path for d in wanted if d in self._rows}:
            cache_dir.touch(path)
        return [digest for digest in wanted if digest not in self._rows]

    def _open(self, path: Path) -> None:
        self._seen.add(path)
        segment = open_segment(path, self._transform, self._shape)
        if segment is None:
            cache_dir.remove(CacheFile(path, IMAGES, 0, 0.0))
            return
        with self._lock:
            for row, digest in enumerate(segment.digests):
                self._rows[digest] = (segment, row)

    def take(self, digests: Mapping[int, bytes], into: Pixels) -> dict[int, Cost]:
        """Fill the rows of `into` (b, 3, h, w) with cached images; returns their original costs."""
        prices: dict[int, Cost] = {}
        wanted: dict[Segment, dict[int, int]] = {}
        with self._lock:
            for index, digest in digests.items():
                if digest in self._rows:
                    segment, row = self._rows[digest]
                    wanted.setdefault(segment, {})[index] = row
        for segment, rows in wanted.items():
            if self._is_good(segment, list(rows.values())):
                for index, row in rows.items():
                    into[index] = segment.rows[row]
                prices |= dict.fromkeys(rows, segment.price)
                segment.release()
        return prices

    def run_of(self, digests: Sequence[bytes]) -> tuple[Pixels, Segment] | None:
        """(n, 3, h, w) of images that are contiguous in one file, in this order; not copied."""
        with self._lock:
            rows = [self._rows.get(digest) for digest in digests]
        if not rows or rows[0] is None:
            return None
        segment, first = rows[0]
        if rows != [(segment, first + offset) for offset in range(len(rows))]:
            return None
        if not self._is_good(segment, range(first, first + len(rows))):
            return None
        return segment.rows[first : first + len(rows)], segment

    def _is_good(self, segment: Segment, rows: Sequence[int]) -> bool:
        """Check rows; a damaged file is removed and never served again."""
        if segment.is_good(rows):
            return True
        with self._lock:
            self._rows = {key: row for key, row in self._rows.items() if row[0] is not segment}
        cache_dir.remove(CacheFile(segment.path, IMAGES, 0, 0.0))
        return False

    def write_segment(self, count: int) -> SegmentWriter:
        """A writer for `count` newly decoded images; OSError if there is no room."""
        need = count * (math.prod(self._shape) + 2 * SHA) + 4096
        cache_dir.make_room(IMAGES, need, cache_dir.limit_bytes())
        cache_dir.make_folder(self._folder)
        return SegmentWriter(self._folder / temporary_name(), self._shape)

    def publish(self, writer: SegmentWriter) -> None:
        """Give a written file its name and serve from it; OSError on a full disk."""
        joined = b"".join(writer.digests)
        name = hashlib.sha256(self._transform.encode() + joined).hexdigest()
        path = self._folder / f"{name}.pixels"
        writer.finish(path, {"dataset": self._name, "transform": self._transform})
        self._open(path)


class Keeper:
    """Writes what one pass over images decodes into the cache on disk, if there is one.

    A process that runs foreign code writes nothing.
    """

    def __init__(self, cache: ImageCache | None, files: EncodedFiles, order: Iterable[int]) -> None:
        self._cache = cache
        self._files = files
        self._writer: SegmentWriter | None = None
        self._wanted = [files.digests[index] for index in order] if cache else []
        if cache is not None:
            cache.look(self._wanted)

    @property
    def problem(self) -> str:
        """The reason why images or digests could not be cached; empty without a failure."""
        return (self._cache.problem if self._cache else "") or self._files.problem

    def add(self, index: int, pixels: Pixels, price: Cost) -> bool:
        """Write one image; False if it was not cached."""
        cache = self._cache
        if cache is None or cache.problem or not cache_dir.is_shared():
            return False
        try:
            if self._writer is None:
                self._writer = cache.write_segment(len(cache.look(self._wanted)))
            self._writer.add(self._files.digests[index], pixels, price)
        except OSError as error:
            self._give_up(cache, error)
            return False
        return True

    def close(self) -> None:
        """Publish the written segment; on failure, only the file is lost."""
        if self._cache is not None and self._writer is not None:
            try:
                self._cache.publish(self._writer)
            except OSError as error:
                self._give_up(self._cache, error)

    def _give_up(self, cache: ImageCache, error: OSError) -> None:
        cache.problem = f"decoded images are not kept: {error}"
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None
