"""Features on disk: shards of segments that several processes read, write, merge and evict.

`FeatureStore` is the entry point. A shard holds rows of one encoder, data set and role; its
segments are immutable: written to a temporary file and renamed, merged into larger ones, and
removed. A row is served only with the bytes that were written, whatever happened to the files.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fewshot_bench.images.feature_segment import (
    INDEX,
    KEY,
    Array,
    DamagedSegment,
    Form,
    Label,
    Segment,
    narrowed,
    parts_of_rows,
    parts_of_segments,
    parts_of_sound_rows,
    widened,
)
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import DAMAGED, FEATURES, LASTING, PASSING, CacheFile
from fewshot_bench.utils.locks import FOLDER as LOCKS
from fewshot_bench.utils.locks import exclusive
from fewshot_bench.utils.text import printable

FAN = 4
"""Number of similar-sized segments that are merged into one."""
SEGMENT_BYTES, SEGMENT_ROWS = 1 << 29, 1 << 19
"""Maximum size of a merged segment; at most `SEGMENT_SHARE` of the budget."""
SEGMENT_SHARE = 1 / 8
# A merge above this share of the largest one evicts nothing: features that fit must stay.
EVICTING_SHARE = 1 / 8
# Rows that a fit drew for itself may be evicted for those of another after this time without use.
SETTLED_SECONDS = 3600.0
TOUCH_SECONDS = 60.0
TRIES = 3
SPARE_BYTES = 4096
KEPT = (LASTING, PASSING)
GONE = frozenset({errno.ENOENT, errno.ESTALE})


def kept_row_bytes(width: int, precision: str) -> int:
    """Bytes on disk per kept row of `width` values from an encoder with this precision."""
    return width * (4 if precision == "fp32" else 2) + INDEX.itemsize


def largest_merge(budget: int | None) -> int:
    """Maximum bytes of a merged segment, which needs this room beside the files that it replaces.

    budget: bytes, or None for a share of the disk.
    """
    return SEGMENT_BYTES if budget is None else min(SEGMENT_BYTES, int(budget * SEGMENT_SHARE))


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Shard:
    """The group of rows that are stored together.

    name: 16 hexadecimal digits. passing: rows that one fit draws for itself, which are kept only
    if there is room.
    """

    name: str
    label: Label
    passing: bool = False


class Rows:
    """Rows being gathered: (n, bytes) in the order of their keys, and the cost of each."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """keys: distinct, of `KEY` bytes."""
        self.names = keys
        self.keys = np.array(keys, f"S{KEY}")
        self.lacking = np.ones(len(keys), bool)
        self.costs: list[bytes] = [b""] * len(keys)
        self.form: Form | None = None
        self.data: Array = np.empty((len(keys), 0), np.uint8)
        self._order = np.argsort(self.keys, kind="stable")

    def sorted(self) -> Array:
        """Indices of the keys without a row so far, sorted by key."""
        return self._order[self.lacking[self._order]]

    def takes(self, form: Form) -> bool:
        """True if `form` matches the rows gathered so far; the first form is accepted and set."""
        if self.form is None:
            self.form = Form(form.width, form.dtype, form.dtype)
            self.data = np.empty((len(self.costs), self.form.row_bytes), np.uint8)
        return (self.form.width, self.form.dtype) == (form.width, form.dtype)

    def put(self, places: Array, costs: Sequence[bytes]) -> None:
        """Mark the rows at `places` as present, with the cost of each."""
        self.lacking[places] = False
        for place, cost in zip(places.tolist(), costs, strict=True):
            self.costs[place] = cost


class FeatureStore:
    """The segments in a folder, at most `budget` bytes of them."""

    def __init__(
        self,
        folder: Path,
        budget: Callable[[], int | None] = cache_dir.feature_budget,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        """budget: bytes, or None for a share of the disk; warn: called for damaged segments."""
        self.folder = folder
        self._budget = budget
        self._warn = warn
        self._known: dict[str, dict[Path, Segment]] = {}
        self._touched: dict[Path, float] = {}
        self._bad: set[Path] = set()

    def fill(self, shard: Shard, rows: Rows) -> None:
        """Fill in the missing ones of `rows` that the shard holds."""
        known = self._known.setdefault(shard.name, {})
        gone = self._fill(known, list(known), rows)
        for _ in range(TRIES):
            if not rows.lacking.any():
                return
            # Others may have written or merged segments since.
            new, missed = self._list(shard)
            gone = self._fill(known, new, rows) or missed
            if not gone:
                return

    def _list(self, shard: Shard) -> tuple[list[Path], bool]:
        """Update the known segments of a shard; returns new ones, and True if one just vanished."""
        known = self._known.setdefault(shard.name, {})
        found = cache_dir.listed(self.folder / shard.name)
        listed = {path for path in found if path.suffix in KEPT} - self._bad
        for path in known.keys() - listed:
            del known[path]
            self._touched.pop(path, None)
        new, gone = [], False
        for path in listed - known.keys():
            with _Reading() as reading:
                known[path] = Segment.open(path)
                new.append(path)
            gone |= self._ended(reading, path, shard.label)
        return new, gone

    def _fill(self, known: dict[Path, Segment], paths: Sequence[Path], rows: Rows) -> bool:
        """Take rows from segments, the largest first; True if one of the files is replaced."""
        gone = False
        for path in sorted(paths, key=lambda path: -known[path].keys):
            wanted = rows.sorted()
            if not len(wanted):
                break
            with _Reading() as reading:
                self._fill_from(known[path], wanted, rows)
            gone |= self._ended(reading, path, known[path].label, known[path])
            if reading.error is not None:
                del known[path]
        return gone

    def _ended(
        self, reading: _Reading, path: Path, label: Label, segment: Segment | None = None
    ) -> bool:
        """True if other files are there instead of the segment's.

        A damaged one is reported, and replaced by its sound rows if its head could be read.
        """
        error = reading.error
        number = error.errno if isinstance(error, OSError) else None
        if error is None or number in GONE:
            return error is not None
        self._bad.add(path)
        if isinstance(error, DamagedSegment) or number == errno.EIO:
            left = self._rescued(segment) if segment is not None else 0
            with suppress(OSError):
                # Leave an empty marker file, which `fsbench cache` lists.
                path.with_suffix(DAMAGED).touch()
                path.unlink()
            kept = f"; {left:,} sound rows are kept" if left else ""
            self._warn(
                f"features of {printable(label.dataset) or 'a data set'} were damaged on the disk "
                f"and are computed again: {path}: {error}{kept}"
            )
            return left > 0
        return False

    def _rescued(self, segment: Segment) -> int:
        """Write the sound rows of a damaged segment to a new one; returns their number."""
        shard = Shard(segment.path.parent.name, segment.label, segment.path.suffix == PASSING)
        try:
            with segment.path.open("rb", buffering=0) as file:
                parts = parts_of_sound_rows(segment, file)
                size = segment.size + SPARE_BYTES
                return Segment.open(self._write(shard, size, parts, [segment.path])).keys
        except (OSError, DamagedSegment):
            return 0

    def _fill_from(self, segment: Segment, wanted: Array, rows: Rows) -> None:
        with segment.path.open("rb", buffering=0) as file:
            entries = segment.find(file, rows.keys[wanted])
            there = entries["place"] < segment.rows
            if not there.any() or not rows.takes(segment.form):
                return
            # In the requested order of the rows, which is often that of the file.
            order = np.argsort(wanted[there])
            entries, places = entries[there][order], wanted[there][order]
            if segment.form.kept == segment.form.dtype:
                good, costs = segment.take(file, entries, places, rows.data)
            else:
                own = np.empty((len(places), segment.form.row_bytes), np.uint8)
                good, costs = segment.take(file, entries, np.arange(len(places)), own)
                rows.data[places] = widened(own, segment.form)
        if not all(good):
            raise DamagedSegment(f"{good.count(False)} rows are not as they were written")
        rows.put(places, costs)
        self._touch(segment.path)

    def _touch(self, path: Path) -> None:
        """Record the use of a segment for eviction, at most once a minute."""
        now = time.monotonic()
        if now - self._touched.get(path, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._touched[path] = now
            cache_dir.touch(path)

    def add(
        self, shard: Shard, keys: Sequence[bytes], data: Array, cost: bytes, form: Form
    ) -> bool:
        """Store rows (n, bytes) of one computation; False if there is no room or writing fails.

        Nor does a process that runs foreign code store any.
        """
        if not cache_dir.is_shared():
            return False
        data, form = narrowed(data, form)
        parts = parts_of_rows(keys, data, cost, form, shard.label)
        try:
            self._write(shard, sum(map(len, parts)), parts)
        except OSError:
            return False
        with suppress(OSError), self._locked(f"merge-{shard.name[0]}"):
            self._merge(shard)
        return True

    def _write(
        self,
        shard: Shard,
        size: int,
        parts: Iterable[bytes | memoryview],
        inputs: Sequence[Path] = (),
        *,
        evict: bool = True,
    ) -> Path:
        """Write a temporary file and rename it; OSError if there is no room for `size` bytes.

        The file has its size from the start, so that other processes count it. inputs: files that
        must not be evicted; without `evict`, none is.
        """
        temporary = self._reserved(shard, size, inputs, evict=evict)
        try:
            last: bytes | memoryview = b""
            with temporary.open("r+b") as file:
                for last in parts:
                    file.write(last)
                file.truncate()
            suffix = PASSING if shard.passing else LASTING
            # The last part holds keys, costs and checksums, so that it differs between files.
            path = temporary.with_name(f"{hashlib.sha256(last).hexdigest()}{suffix}")
            os.replace(temporary, path)
            return path
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def obstacle(self) -> str:
        """Why nothing can be kept, with the next step; empty if rows can."""
        if self.folder.is_symlink():
            parent = self.folder.parent
            return f"it is a link, which is not followed; make it a folder, or link '{parent}'"
        there = next(part for part in (self.folder, *self.folder.parents) if part.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return ""
        return f"'{there}' cannot be written"

    def shrink(self) -> int:
        """Evict what is beyond the budget, which may be lower than before; returns its bytes."""
        if not self.folder.is_dir():
            return 0
        before = cache_dir.files(FEATURES, self.folder)
        with suppress(OSError), self._locked("room"):
            cache_dir.make_room(FEATURES, 0, self._budget(), self.folder)
        return sum(file.size for file in before if not file.path.exists())

    def _reserved(self, shard: Shard, size: int, inputs: Sequence[Path], *, evict: bool) -> Path:
        """Reserve `size` bytes as a temporary file; OSError if they do not fit."""
        settled = time.time() - SETTLED_SECONDS

        def spare(file: CacheFile) -> bool:
            passes = file.path.suffix == PASSING and file.used < settled
            return evict and file.path not in inputs and (passes or not shard.passing)

        with self._locked("room"):
            cache_dir.make_room(FEATURES, size, self._budget(), self.folder, spare)
            temporary = cache_dir.new_file(self.folder / shard.name)
            with temporary.open("xb") as file:
                file.truncate(size)
        return temporary

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Hold a lock between processes, if files can be locked."""
        with ExitStack() as stack:
            with suppress(OSError):
                cache_dir.make_folder(self.folder / LOCKS)
                stack.enter_context(exclusive(self.folder / LOCKS, key))
            yield

    def _merge(self, shard: Shard) -> None:
        """Merge segments of similar size until few are left."""
        most = largest_merge(self._budget())
        while True:
            self._list(shard)
            chosen = _to_merge(self._known[shard.name].values(), most)
            if not chosen:
                return
            with ExitStack() as stack:
                paths = [segment.path for segment in chosen]
                files = [stack.enter_context(path.open("rb", buffering=0)) for path in paths]
                used = max(os.fstat(file.fileno()).st_mtime for file in files)
                # A damaged index must not cost a copy of the rows each time.
                if self._index_problems(chosen, files):
                    continue
                size = _size_of(chosen)
                try:
                    parts = parts_of_segments(chosen, files)
                    evict = size <= EVICTING_SHARE * most
                    merged = self._write(shard, size, parts, paths, evict=evict)
                except DamagedSegment:
                    # The next lookup of its rows reports and removes it.
                    return
            os.utime(merged, (used, used))
            for path in paths:
                path.unlink(missing_ok=True)

    def _index_problems(self, segments: Sequence[Segment], files: Sequence[IO[bytes]]) -> bool:
        """True if the index of a segment cannot be read; a damaged one is reported and removed."""
        found = False
        for segment, file in zip(segments, files, strict=True):
            with _Reading() as reading:
                segment.entries(file)
            self._ended(reading, segment.path, segment.label, segment)
            found |= reading.error is not None
        return found


class _Reading:
    """Context for reading a segment, which keeps an OSError or DamagedSegment in `error`."""

    error: OSError | DamagedSegment | None = None

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, OSError | DamagedSegment):
            self.error = error
        return self.error is not None


def _to_merge(segments: Iterable[Segment], most: int) -> list[Segment]:
    """At least two segments of similar size that merge into at most `most` bytes, or none."""
    tiers: defaultdict[object, list[Segment]] = defaultdict(list)
    for segment in sorted(segments, key=lambda segment: segment.size):
        tiers[segment.form, segment.size.bit_length() // 2].append(segment)
    for tier in tiers.values():
        chosen: list[Segment] = []
        for segment in tier if len(tier) >= FAN else ():
            more = [*chosen, segment]
            rows = sum(one.rows for one in more)
            if _size_of(more) <= most and rows <= SEGMENT_ROWS:
                chosen = more
        if len(chosen) > 1:
            return chosen
    return []


def _size_of(segments: Sequence[Segment]) -> int:
    """Upper estimate of a merged segment's bytes, allowing for a larger table of buckets."""
    return sum(segment.size + 12 * len(segment.table) for segment in segments) + SPARE_BYTES
