"""Time `fsbench compare` on a store of synthetic records with logits.

    python -m benchmarks.tables [--store DIR] [--queries 1000] [--classes 50] [--lacking]

The store has 11 data sets x 12 methods x 5 shots x 3 seeds (1,980 records), a method without shots
and four failed cells; it is made in a temporary folder, or in --store, where an existing store is
reused. `--lacking`: the records lack all metrics but top1, so that they are computed from the
logits. First times are without index and outcomes in the store; all are of the whole command,
including the start of Python.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from fewshot_bench.store.answer_files import read
from fewshot_bench.store.index import index_files
from fewshot_bench.store.store import Store
from tests.support.synthetic_store import fill

COMMANDS: dict[str, Sequence[str]] = {
    "terminal": (),
    "markdown": ("--format", "markdown"),
    "latex": ("--format", "latex"),
    "csv": ("--format", "csv"),
    "json": ("--format", "json"),
    "--baseline coop": ("--baseline", "coop"),
    "--metric ece": ("--metric", "ece", "--columns", "curve,brier,nll"),
    "--per-class": ("--per-class",),
    "--per-class csv": ("--per-class", "--format", "csv"),
}


def main() -> None:
    """Make the store, then time each command without and with index and outcomes."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        store = options.store or Path(scratch) / "store"
        if not store.exists():
            start = time.perf_counter()
            fill(store, queries=options.queries, classes=options.classes, failed=4, zero_shot=True)
            print(f"made the store in {time.perf_counter() - start:.0f} s")
        if options.lacking:
            drop_metrics(Store(store))
        count = len(list(store.rglob("*.json")))
        print(f"{count:,} records, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'compare':<18}{'first s':>9}{'again s':>9}{'again CPU s':>13}")
        for name, words in COMMANDS.items():
            for path in index_files(store):
                path.unlink()
            first, _ = timed(store, words)
            again, cpu = min(timed(store, words) for _ in range(3))
            print(f"{name:<18}{first:>9.2f}{again:>9.2f}{cpu:>13.2f}")


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--lacking", action="store_true")
    return parser.parse_args()


def drop_metrics(store: Store) -> None:
    """Rewrite every record with no metric but its top-1 accuracy."""
    for record in list(store.records()):
        if record.status == "done":
            bare = dataclasses.replace(record, metrics={"top1": record.metrics["top1"]})
            store.put(bare, read(store.file(record.spec.key()).with_suffix(".npz"))[0])


def timed(store: Path, words: Sequence[str]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of one command."""
    command = [sys.executable, "-m", "fewshot_bench", "compare", "--store", str(store), *words]
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


if __name__ == "__main__":
    main()
