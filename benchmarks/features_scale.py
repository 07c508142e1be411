"""Feature look-ups among many rows: seconds, and memory of a process that does nothing else.

    python -m benchmarks.features_scale [--rows 10000,100000,1000000] [--against sqlite,lmdb]

For each number of rows (512 float32 values each), one process writes them 10,000 at a time; another
then looks up 100 at random, five times. `--against` measures other storage of the same rows:
`sqlite` (part of Python) and `lmdb` (pip install lmdb).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.feature_files import Origin
from fewshot_bench.profiling.meter import Meter

WIDTH, AT_ONCE, ASKED, TIMES = 512, 10_000, 100, 5
CONTEXT, ORIGIN = {"weights": "w"}, Origin("set", "encode_queries")
Look = Callable[[Sequence[int]], np.ndarray]


def key(number: int) -> bytes:
    """The key of an image."""
    return hashlib.sha256(str(number).encode()).digest()


def rows(numbers: Sequence[int]) -> np.ndarray:
    """Rows (n, WIDTH) computed from the numbers."""
    column = np.array(numbers, np.float32)[:, None] + 1 / 3
    return column * np.arange(1, WIDTH + 1, dtype=np.float32)


class Way(Protocol):
    """A storage backend for rows."""

    def __init__(self, folder: Path) -> None: ...

    def write(self, numbers: Sequence[int]) -> None:
        """Store the rows of these numbers."""
        ...

    def look(self, numbers: Sequence[int]) -> np.ndarray:
        """Stored rows (n, WIDTH)."""
        ...


class Ours:
    """The feature store of the harness."""

    def __init__(self, folder: Path) -> None:
        self._cache = FeatureCache(folder)

    def write(self, numbers: Sequence[int]) -> None:
        """Store the rows of these numbers."""
        self._rows(numbers, lambda places: torch.from_numpy(rows([numbers[p] for p in places])))

    def look(self, numbers: Sequence[int]) -> np.ndarray:
        """Stored rows (n, WIDTH); SystemExit if any is missing."""

        def compute(places: list[int]) -> torch.Tensor:
            raise SystemExit(f"{len(places)} rows are not there")

        return self._rows(numbers, compute).numpy()

    def _rows(
        self, numbers: Sequence[int], compute: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        meter = Meter(torch.device("cpu"))
        with meter.phase("encode_queries"):
            return self._cache.rows(CONTEXT, [key(n) for n in numbers], compute, meter, ORIGIN)


class Sqlite:
    """A table of keys and rows."""

    def __init__(self, folder: Path) -> None:
        import sqlite3

        folder.mkdir(exist_ok=True)
        self._base = sqlite3.connect(folder / "rows.db")
        self._base.execute("pragma journal_mode=wal")
        self._base.execute("pragma synchronous=off")
        made = "create table if not exists kept (key blob primary key, row blob) without rowid"
        self._base.execute(made)

    def write(self, numbers: Sequence[int]) -> None:
        """Store the rows of these numbers."""
        found = rows(numbers)
        with self._base:
            pairs = ((key(n), row.tobytes()) for n, row in zip(numbers, found, strict=True))
            self._base.executemany("insert into kept values (?, ?)", pairs)

    def look(self, numbers: Sequence[int]) -> np.ndarray:
        """Stored rows (n, WIDTH)."""
        asked = (
            self._base.execute("select row from kept where key = ?", (key(n),)) for n in numbers
        )
        return np.frombuffer(b"".join(one.fetchone()[0] for one in asked), np.float32).reshape(
            -1, WIDTH
        )


class Lmdb:
    """A memory-mapped B+ tree."""

    def __init__(self, folder: Path) -> None:
        import lmdb

        self._base = lmdb.open(str(folder), map_size=1 << 36, sync=False)

    def write(self, numbers: Sequence[int]) -> None:
        """Store the rows of these numbers."""
        found = rows(numbers)
        with self._base.begin(write=True) as transaction:
            for number, row in zip(numbers, found, strict=True):
                transaction.put(key(number), row.tobytes())

    def look(self, numbers: Sequence[int]) -> np.ndarray:
        """Stored rows (n, WIDTH)."""
        with self._base.begin() as transaction:
            found = b"".join(transaction.get(key(number)) for number in numbers)
        return np.frombuffer(found, np.float32).reshape(-1, WIDTH)


WAYS: Mapping[str, type[Way]] = {"ours": Ours, "sqlite": Sqlite, "lmdb": Lmdb}


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fill(way: str, folder: Path, count: int) -> dict[str, float]:
    """Write `count` rows; return CPU seconds and growth of peak memory."""
    kept, start, begun = WAYS[way](folder), peak(), time.process_time()
    for first in range(0, count, AT_ONCE):
        kept.write(range(first, min(first + AT_ONCE, count)))
    return {"cpu": time.process_time() - begun, "mb": peak() - start}


def look(way: str, folder: Path, count: int) -> dict[str, object]:
    """Look up and check random rows; return CPU seconds and growth of peak memory."""
    rng, seconds, start = random.Random(count), [], peak()
    kept = WAYS[way](folder)
    for _ in range(TIMES):
        numbers = rng.sample(range(count), ASKED)
        begun = time.process_time()
        found = kept.look(numbers)
        seconds.append(time.process_time() - begun)
        if not np.array_equal(found, rows(numbers)):
            raise SystemExit("a wrong row")
    return {"first": seconds[0], "later": min(seconds[1:]), "mb": peak() - start}


def apart(*arguments: object) -> dict[str, float]:
    """Run a step in a process of its own and return its measurements."""
    command = [sys.executable, "-m", "benchmarks.features_scale", *map(str, arguments)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(said))


def main() -> None:
    """Write, look up, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--against", default="")
    parser.add_argument("--folder", help="where the rows are put, and removed again")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        step, way, folder, count = asked.step
        print(json.dumps({"fill": fill, "look": look}[step](way, Path(folder), int(count))))
        return
    print("kept in      rows   disk MB  files | write CPU s    MB | first ms  later ms    MB")
    for way in ["ours", *filter(None, asked.against.split(","))]:
        for count in map(int, asked.rows.split(",")):
            with tempfile.TemporaryDirectory(dir=asked.folder) as name:
                folder = Path(name) / "kept"
                written = apart("--step", "fill", way, folder, count)
                found = apart("--step", "look", way, folder, count)
                files = [path for path in folder.rglob("*") if path.is_file()]
                size = sum(path.stat().st_size for path in files) / 1e6
                print(
                    f"{way:7} {count:9,} {size:9,.1f} {len(files):6} | "
                    f"{written['cpu']:11.1f} {written['mb']:5.0f} | {1000 * found['first']:8.1f} "
                    f"{1000 * found['later']:9.1f} {found['mb']:5.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
