"""Speed-up of the local engine with two workers, and its cost per cell.

    python -m benchmarks.engine [--minute 60] [--cells 12] [--backbone ViT-B-32]

Everything runs through the command line in a fresh store. Costs per cell exclude process start-up:
they are differences between many cells and few, or between two records.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import machine
from benchmarks.subjects import backbone_of
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.support.helpers import cells, install_methods

FEW, MANY = 10, 210


def run(folder: Path, name: str, *arguments: str) -> float:
    """Wall seconds of one `fsbench run` on digits in a store of its own."""
    command = [sys.executable, "-m", "fewshot_bench", "run", "-d", "digits", "--shots", "1"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--store", str(folder / name), *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    return time.perf_counter() - start


def gain(folder: Path, count: int) -> None:
    """Print the speed-up of two workers over one on independent cells of CLIP-LoRA."""
    seconds = []
    for workers in ("1", "2"):
        own = "--method", "clip-lora", "--seeds", f"1-{count}", "--jobs", workers, "--threads", "1"
        seconds.append(run(folder, f"gain-{workers}", *own))
    one, two = seconds
    print(f"{count} cells of clip-lora: 1 worker {one:.1f} s, 2 workers {two:.1f} s", end=", ")
    print(f"{one / two:.2f}x")


def scheduling(folder: Path) -> None:
    """Print the cost of empty cells through the engine and in this process alone."""
    seconds = {}
    for count in (FEW, MANY):
        own = "-m", "slow", "-o", "seconds=0", "--seeds", f"1-{count}", "--limit", "20"
        seconds[count] = run(folder, f"empty-{count}", *own, "--jobs", "1", "--threads", "1")
    whole = 1000 * (seconds[MANY] - seconds[FEW]) / (MANY - FEW)
    bare = 1000 * alone(folder, MANY - FEW)
    print(
        f"a cell that does nothing: {whole:.1f} ms through the engine, {bare:.1f} ms of them its "
        f"computation and record, {whole - bare:.1f} ms scheduling"
    )


def alone(folder: Path, count: int) -> float:
    """Median seconds of an empty cell, computed and stored in this process."""
    import torch

    from fewshot_bench.runner.examiner import Examiner
    from fewshot_bench.runner.run import run_one

    torch.set_num_threads(1)
    store = Store(folder / "alone")
    session = Session(folder / "alone" / "features", "cpu", Examiner(store.path))
    seconds = []
    seeds = tuple(range(1, count + 1))
    for cell in cells("slow", options=["seconds=0"], seeds=seeds, limit=20):
        start = time.perf_counter()
        found = run_one(cell, session)
        store.write(found.record, found.answers, found.ids)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def harness(folder: Path, backbone: str, minute: float) -> None:
    """Print the time between two records beyond the given duration of the method's fit."""
    name, cells = f"minute-{Path(backbone).name}", 3
    own = "-m", "slow", "-o", f"seconds={minute:g}", "--seeds", f"1-{cells}", "--limit", "100"
    run(folder, name, *own, "--backbone", backbone, "--jobs", "1")
    written = sorted(path.stat().st_mtime for path in (folder / name).rglob("records/*/*.json"))
    extra = (written[-1] - written[0]) / (cells - 1) - minute
    shown = backbone.partition("@")[0]
    print(f"a cell of {minute:g} s with {shown}: {extra:.2f} s more, {100 * extra / minute:.1f} %")


def checkpoint(folder: Path, name: str) -> str:
    """Save a backbone with random weights to a local file and return its specification."""
    import torch

    path = folder / f"{name}.pt"
    torch.save(backbone_of(name).module.state_dict(), path)
    return f"{name}/openai@{path}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minute", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--cells", type=int, default=12)
    parser.add_argument("--backbone", default="ViT-B-32")
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install_methods(folder)
        sys.path.insert(0, str(folder))
        scheduling(folder)
        for backbone in ("tiny", checkpoint(folder, asked.backbone)):
            harness(folder, backbone, asked.minute)
        gain(folder, asked.cells)


if __name__ == "__main__":
    main()
