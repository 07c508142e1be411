"""`kill -9` of processes that write and evict features, at random moments.

    python -m benchmarks.features_kills [--kills 30] [--random 0]

Two writers share one folder whose budget is smaller than what they write, so that they evict all
the time; one of them is repeatedly killed and restarted. Meanwhile and at the end, a
reader checks that every row is the one for its key. Then a byte is changed in
every file: each must be reported once, and its rows computed again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.features_scale import CONTEXT, key, rows
from fewshot_bench.images.feature_cache import FeatureCache
from fewshot_bench.images.feature_files import Origin
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.cache_dir import BUDGET_VARIABLE, FEATURES

BUDGET, MOST, AT_ONCE = 6_000_000, 6_000, 400
ORIGINS = tuple(
    Origin(name, role, passing=role != "encode_queries")
    for name in ("set", "other", "third")
    for role in ("encode_queries", "views of seed 1")
)
LONGEST = 0.6


def look(cache: FeatureCache, rng: random.Random, counts: Counter[str]) -> None:
    """Look up some random rows, as a fit does."""
    first, origin = rng.randrange(MOST), rng.choice(ORIGINS)
    numbers = rng.sample(range(first, first + 4 * AT_ONCE), rng.randint(1, AT_ONCE))
    ask(cache, numbers, origin, counts)


def ask(cache: FeatureCache, numbers: Sequence[int], origin: Origin, counts: Counter[str]) -> None:
    """Look up rows by number and check them; SystemExit for a wrong row."""
    meter = Meter(torch.device("cpu"))

    def compute(places: list[int]) -> torch.Tensor:
        counts["computed"] += len(places)
        return torch.from_numpy(rows([numbers[place] for place in places]))

    context = CONTEXT | {"kind": origin.role, "set": origin.dataset}
    with meter.phase("encode_queries"):
        found = cache.rows(context, [key(n) for n in numbers], compute, meter, origin)
    if not torch.equal(found, torch.from_numpy(rows(numbers))):
        raise SystemExit("a wrong row was served")
    counts["served"] += len(numbers)


def write(folder: Path, seed: int) -> None:
    """Write rows until killed."""
    cache, rng = FeatureCache(folder), random.Random(seed)
    while True:
        look(cache, rng, Counter())


def start(folder: Path, seed: int) -> subprocess.Popen[bytes]:
    """Start a writer process."""
    command = [sys.executable, "-m", "benchmarks.features_kills", "--write", str(folder)]
    return subprocess.Popen([*command, "--random", str(seed)])


def total(folder: Path) -> int:
    """Total size of all feature files in bytes."""
    return sum(file.size for file in cache_dir.files(FEATURES, folder))


def await_writing(folder: Path) -> None:
    """Wait until a process writes to a file, at most five seconds."""
    end = time.monotonic() + 5
    while time.monotonic() < end and not list(folder.glob("*-journal")):
        pass


def disturb(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    """Kill and restart writers while this process reads; return counts of what happened."""
    counts: Counter[str] = Counter()
    cache, most = FeatureCache(folder), 0
    writers = [start(folder, seed) for seed in (1, 2)]
    try:
        while not total(folder):
            time.sleep(0.1)
        for number in range(kills):
            end = time.monotonic() + rng.uniform(0.05, LONGEST)
            while time.monotonic() < end:
                look(cache, rng, counts)
                most = max(most, total(folder))
            victim = number % 2
            if number % 3:
                await_writing(folder)
            if writers[victim].poll() is not None:
                raise SystemExit("a writer ended by itself")
            os.kill(writers[victim].pid, signal.SIGKILL)
            writers[victim].wait()
            counts["half-written"] += len(list(folder.glob("*-journal")))
            writers[victim] = start(folder, 3 + number)
            look(cache, rng, counts)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    if most > BUDGET:
        raise SystemExit(f"{most:,} bytes of features, and the budget is {BUDGET:,}")
    counts["most bytes"] = most
    return counts


def damage(folder: Path) -> None:
    """Flip a bit of a row in every file; each must be reported once and be recomputed."""
    # Nothing must be evicted before it is read.
    os.environ[BUDGET_VARIABLE] = str(1000 * BUDGET)
    for file in cache_dir.files(FEATURES, folder):
        content = bytearray(file.path.read_bytes())
        with contextlib.closing(sqlite3.connect(file.path)) as base:
            ((data,),) = base.execute("select data from row limit 1")
        content[content.index(data)] ^= 1
        file.path.write_bytes(content)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            cache, counts = FeatureCache(folder), Counter[str]()
            for first in range(0, MOST + 4 * AT_ONCE, AT_ONCE):
                for origin in ORIGINS:
                    ask(cache, range(first, first + AT_ONCE), origin, counts)
        lines = [line for line in said.getvalue().splitlines() if "were damaged" in line]
        print(*lines, sep="\n")
        if len(lines) != 1:
            raise SystemExit(f"{file.path} was changed, and named {len(lines)} times")


def main() -> None:
    """Run the writers, kill them, check all rows, and print counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[BUDGET_VARIABLE] = str(BUDGET)
    if asked.write:
        write(asked.write, asked.random)
    rng = random.Random(asked.random)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = disturb(folder, asked.kills, rng)
        print(f"{asked.kills} kills, no wrong row: {dict(counts)}, budget {BUDGET:,}")
        damage(folder)


if __name__ == "__main__":
    main()
