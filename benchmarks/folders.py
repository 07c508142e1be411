"""A folder of many images: time, memory and calls of `show` and `run`, at first and again.

    python -m benchmarks.folders [--images 20000,160000,1280000] [--classes 1000] [--layout split]

Trees of small JPEG files (hard links) are made in a temporary folder and removed. Every step runs
in its own process; CPU seconds include all child processes, peak memory is that of the largest
process.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

# File systems limit the hard links per file (65,000 on ext4).
LINKS = 50_000
SHARES = {"unsplit": {"": 1.0}, "split": {"train": 0.5, "val": 0.2, "test": 0.3}}
MAIN = "from fewshot_bench.cli.main import main; main()"
RUN = ("--backbone", "tiny", "-m", "zero-shot", "--shots", "1", "--seeds", "1", "--limit", "1000")


@dataclass(frozen=True)
class Taken:
    """CPU seconds, wall seconds and peak memory in MB of one command."""

    cpu: float
    wall: float
    memory: float


def make_tree(root: Path, images: int, classes: int, layout: str) -> None:
    """Make a tree of `images` files in all, evenly spread over `classes`."""
    for number in range(classes):
        name = f"n{number:08d}"
        files = _sources(root.with_name("sources") / name, number, images // classes)
        for role, share in SHARES[layout].items():
            folder = root / role / name
            folder.mkdir(parents=True)
            for image in range(round(share * images / classes)):
                os.link(next(files), folder / f"{name}_{role}{image}.JPEG")


def _sources(folder: Path, seed: int, count: int) -> Iterator[Path]:
    """Yield the file to hard-link for each of `count` images."""
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    for first in range(0, count + len(SHARES), LINKS):
        path = folder / f"{first}.jpg"
        color = tuple(rng.randrange(256) for _ in range(3))
        Image.new("RGB", (8, 8), color).save(path, "JPEG")
        for _ in range(LINKS):
            yield path


def taken(*command: str) -> Taken:
    """Run `fsbench` with these arguments and measure it; SystemExit on failure."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Taken(used.ru_utime + used.ru_stime, time.perf_counter() - start, used.ru_maxrss / 1024)


def calls(name: str) -> Counter[str]:
    """Count folders listed and files and folders inspected while a data set's card is made."""
    from fsbench_datasets import trees
    from fsbench_datasets.disk import file_size

    from fewshot_bench.api.registry import registry

    counts: Counter[str] = Counter()

    def counting(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            counts[what] += 1
            return function(*args, **options)

        return call

    registry()
    with (
        mock.patch.object(trees, "file_size", counting(file_size, "files")),
        mock.patch.object(os, "scandir", counting(os.scandir, "listed")),
        mock.patch.object(os, "stat", counting(os.stat, "stat")),
    ):
        registry().dataset(name).card()
    return counts


def measure(images: int, classes: int, layout: str) -> None:
    """Print one line per step for one size."""
    place = Path(tempfile.mkdtemp(prefix="fsbench-folders-"))
    name, store = f"folder:{place / 'set'}", str(place / "store")
    steps = {
        "show": ("show", name, "--store", store),
        "show again": ("show", name, "--store", store),
        "run": ("run", "-d", name, "--store", store, *RUN),
        "run again": ("run", "-d", name, "--store", store, *RUN),
    }
    try:
        make_tree(place / "set", images, classes, layout)
        with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(place / "counted")}):
            for step in ("show", "show again"):
                found = ", ".join(f"{count:,} {what}" for what, count in calls(name).items())
                print(f"{images:>9,}  {step:<10}  calls: {found}", flush=True)
        with mock.patch.dict(os.environ, {"FSBENCH_CACHE": str(place / "cache")}):
            for step, command in steps.items():
                t = taken(*command)
                line = f"{t.cpu:6.1f} s of CPU  {t.wall:6.1f} s  {t.memory:5.0f} MB"
                print(f"{images:>9,}  {step:<10}  {line}", flush=True)
    finally:
        shutil.rmtree(place)


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="20000,160000,1280000")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--layout", choices=tuple(SHARES), default="unsplit")
    given = parser.parse_args()
    for images in map(int, given.images.split(",")):
        measure(images, given.classes, given.layout)


if __name__ == "__main__":
    main()
