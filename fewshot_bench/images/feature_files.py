"""Features on disk: one SQLite file per encoder, data set and role, which several processes share.

`FeatureFiles` is the entry point. A row is served only with the key, values, form and cost that
were written, whatever happened to its file: its checksum covers them all.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.profiling.cost import Cost
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import FEATURES, LASTING, PASSING, CacheFile
from fewshot_bench.utils.database import Database
from fewshot_bench.utils.locks import FOLDER as LOCKS
from fewshot_bench.utils.locks import exclusive
from fewshot_bench.utils.text import printable

Array = np.ndarray[Any, Any]
KEY = 32
COST = struct.Struct("<ddqqqqq")
KINDS = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}
# `facts` are what all rows of a computation have in common: the packed cost and the form. `name`:
# the first 64 bits of a row's key; the checksum covers all of it.
SCHEMA = """
create table computation(id integer primary key, dataset text, role text, device text, facts blob);
create table row(name int unique, checksum int, computation int, data blob)
"""
SELECT = "select name, checksum, facts, data from row join computation on computation=id where name"
PAGE = 1 << 15
# Bytes of a row beside its values, and the share of a page that rows of usual widths leave empty.
ROW_BYTES, WASTE = 56, 1 / 8
# Rows are looked up, and bytes written, this many at a time.
ASKED, WRITTEN = 1000, 1 << 23
OPEN = 16
"""Most files that a process holds open."""
# Rows that a fit drew for itself may be evicted for those of another after this time without use.
SETTLED_SECONDS = 3600.0
TOUCH_SECONDS = 60.0


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


def narrow(rows: Array, form: Form) -> tuple[Array, Form]:
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


def widen(rows: Array, form: Form) -> Array:
    """The inverse of `narrow`."""
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


def _pack_facts(cost: bytes, form: Form) -> bytes:
    return cost + f"{form.width} {form.dtype} {form.kept}".encode()


def _checksum(key: bytes, facts: bytes, data: bytes | memoryview) -> int:
    digest = hashlib.sha256(b"".join((key, facts, data))).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _name_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "little", signed=True)


def kept_row_bytes(width: int, precision: str) -> int:
    """Upper estimate of the bytes that a row takes on the disk."""
    return int(width * (4 if precision == "fp32" else 2) * (1 + WASTE)) + ROW_BYTES


@dataclass(frozen=True)
class Origin:
    """Origin of rows, which determines their file.

    dataset, role: shown in listings. device: its model. shared: the part of the context that all
    rows of the file have in common; all of it by default. passing: one fit draws the rows for
    itself, so that they are kept only if there is room. images: one row per encoded image, else per
    prompt. whole: rows of one context are computed together or not at all.
    """

    dataset: str = ""
    role: str = ""
    shared: Mapping[str, Any] | None = None
    device: str = ""
    passing: bool = False
    images: bool = True
    whole: bool = False

    def file_name(self, context: Mapping[str, Any]) -> str:
        """The name of the file of rows with this context."""
        shared = context if self.shared is None else self.shared
        digest = digest_values({"shared": shared, "dataset": self.dataset, "role": self.role})
        return f"{digest.hex()[:16]}{PASSING if self.passing else LASTING}"


def digest_values(values: Mapping[str, Any]) -> bytes:
    """SHA-256 of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()


class Rows:
    """Rows being gathered: (n, bytes) in the order of their keys, and the cost of each."""

    def __init__(self, names: Sequence[bytes]) -> None:
        """names: distinct keys of `KEY` bytes."""
        self.names = names
        self.keys = np.array(names, f"S{KEY}")
        self.lacking = np.ones(len(names), bool)
        self.costs: list[bytes] = [b""] * len(names)
        self.form: Form | None = None
        self.data: Array = np.empty((len(names), 0), np.uint8)

    def takes(self, form: Form) -> bool:
        """True if `form` matches the rows gathered so far; the first form is accepted and set."""
        if self.form is None:
            self.form = Form(form.width, form.dtype, form.dtype)
            self.data = np.empty((len(self.costs), self.form.row_bytes), np.uint8)
        return (self.form.width, self.form.dtype) == (form.width, form.dtype)

    def put(self, indices: Array, values: Array, cost: bytes) -> None:
        """Set the rows at `indices`, which one computation of this cost made."""
        self.data[indices] = values
        self.mark(indices, cost)

    def mark(self, indices: Array, cost: bytes) -> None:
        """Mark rows as present, with the cost of their computation."""
        self.lacking[indices] = False
        for index in indices.tolist():
            self.costs[index] = cost


class FeatureFiles:
    """The files of a folder, at most `budget` bytes of them."""

    def __init__(
        self,
        folder: Path,
        budget: Callable[[], int | None] = cache_dir.feature_budget,
    ) -> None:
        """budget: bytes, or None for a share of the disk."""
        self.folder = folder
        self._budget = budget
        self._files: OrderedDict[Path, Database] = OrderedDict()
        self._touched: dict[Path, float] = {}

    def _open(self, path: Path) -> Database:
        """The database of a file; those that were used longest ago are closed."""
        if path not in self._files:
            writes = cache_dir.is_shared()
            self._files[path] = Database(path, SCHEMA, page_size=PAGE, durable=False, writes=writes)
        self._files.move_to_end(path)
        if len(self._files) > OPEN:
            self._files.popitem(last=False)[1].close()
        return self._files[path]

    def fill(self, name: str, origin: Origin, rows: Rows) -> None:
        """Fill in the missing ones of `rows` that the file of this name holds."""
        path = self.folder / name
        if self.folder.is_symlink() or not path.exists():
            return
        base = self._open(path)
        lacking, damaged = np.flatnonzero(rows.lacking).tolist(), list[int]()
        for start in range(0, len(lacking), ASKED):
            indices = {_name_of(rows.names[index]): index for index in lacking[start:][:ASKED]}
            marks = ",".join("?" * len(indices))
            damaged += _take(rows, indices, base.read(f"{SELECT} in ({marks})", list(indices)))
        if damaged and not base.damage:
            self._report(path, origin, f"{len(damaged):,} rows are not as they were written")
            with suppress(OSError), base.write() as connection:
                names = ((name,) for name in damaged)
                connection.executemany("delete from row where name=?", names)
        self._report_removal(path, origin, base)
        # For eviction, at most once a minute.
        now = time.monotonic()
        if now - self._touched.get(path, -TOUCH_SECONDS) >= TOUCH_SECONDS:
            self._touched[path] = now
            cache_dir.touch(path)

    def _report_removal(self, path: Path, origin: Origin, base: Database) -> None:
        if base.damage:
            self._report(path, origin, base.damage)
            base.damage = ""

    def _report(self, path: Path, origin: Origin, reason: str) -> None:
        print(
            f"warning: features of {printable(origin.dataset) or 'a data set'} were damaged on the "
            f"disk and are computed again: {path}: {reason}",
            file=sys.stderr,
        )

    def add(
        self,
        name: str,
        origin: Origin,
        keys: Sequence[bytes],
        data: Array,
        cost: bytes,
        form: Form,
    ) -> bool:
        """Store rows (n, bytes) of one computation; False if there is no room or writing fails.

        Nor does a process that runs foreign code store any.
        """
        if not cache_dir.is_shared():
            return False
        data, form = narrow(data, form)
        path, facts = self.folder / name, _pack_facts(cost, form)
        base, budget = self._open(path), self._budget()
        most = WRITTEN if budget is None else min(WRITTEN, budget // 16)
        count = max(1, most // form.row_bytes)
        try:
            cache_dir.make_folder(self.folder)
            for start in range(0, len(keys), count):
                part = slice(start, start + count)
                with self._lock():
                    size = len(keys[part]) * (form.row_bytes + ROW_BYTES)
                    self._make_room(path, size, passing=origin.passing)
                    if base.in_memory:
                        return False
                    _insert(base, origin, keys[part], data[part], facts)
        except OSError:
            return False
        finally:
            self._report_removal(path, origin, base)
        return True

    def _make_room(self, path: Path, size: int, *, passing: bool) -> None:
        """Evict files until `size` bytes of rows fit into a file, with its journal.

        OSError if they do not.
        """
        settled = time.time() - SETTLED_SECONDS

        def can_go(file: CacheFile) -> bool:
            passes = file.path.suffix == PASSING and file.used < settled
            return file.path != path and (passes or not passing)

        # A new file has a page per table and index; a journal may hold them, and the whole index.
        before = path.stat().st_size if path.exists() else 0
        need = int((1 + WASTE) * size) + 4 * PAGE + before // 16
        cache_dir.make_room(FEATURES, need, self._budget(), self.folder, can_go)

    def shrink(self) -> int:
        """Evict what is beyond the budget, which may be lower than before; returns its bytes."""
        if not self.folder.is_dir():
            return 0
        before = cache_dir.files(FEATURES, self.folder)
        with suppress(OSError), self._lock():
            cache_dir.make_room(FEATURES, 0, self._budget(), self.folder)
        return sum(file.size for file in before if not file.path.exists())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process at a time write to the folder, if files can be locked."""
        with ExitStack() as stack:
            with suppress(OSError):
                cache_dir.make_folder(self.folder / LOCKS)
                stack.enter_context(exclusive(self.folder / LOCKS, "room"))
            yield


def _insert(
    base: Database, origin: Origin, keys: Sequence[bytes], data: Array, facts: bytes
) -> None:
    """Store rows in one transaction; OSError if it fails."""
    rows = [memoryview(row) for row in np.ascontiguousarray(data)]
    sums = [_checksum(key, facts, row) for key, row in zip(keys, rows, strict=True)]
    with base.write() as connection:
        number = connection.execute(
            "insert into computation(dataset, role, device, facts) values(?, ?, ?, ?)",
            (*map(printable, (origin.dataset, origin.role, origin.device)), facts),
        ).lastrowid
        connection.executemany(
            "insert or replace into row values(?, ?, ?, ?)",
            zip(map(_name_of, keys), sums, [number] * len(keys), rows, strict=True),
        )


def _take(rows: Rows, index_of: dict[int, int], records: Sequence[tuple[Any, ...]]) -> list[int]:
    """Put records (name, checksum, facts, data) into rows; returns the names of damaged ones."""
    sound: dict[bytes, list[tuple[int, bytes]]] = {}
    damaged = []
    for name, checksum, facts, data in records:
        index = index_of.get(name, -1)
        is_row = index >= 0 and type(facts) is bytes and type(data) is bytes
        if is_row and _checksum(rows.names[index], facts, data) == checksum:
            sound.setdefault(facts, []).append((index, data))
        else:
            damaged.append(name)
    for facts, pairs in sound.items():
        # The inverse of `_pack_facts`.
        width, dtype, kept = facts[COST.size :].decode().split()
        cost, form = facts[: COST.size], Form(int(width), dtype, kept)
        if rows.takes(form):
            values = np.frombuffer(b"".join(data for _, data in pairs), np.uint8)
            values = widen(values.reshape(len(pairs), form.row_bytes), form)
            rows.put(np.array([index for index, _ in pairs]), values, cost)
    return damaged
