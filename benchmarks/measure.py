"""Timing in pairs, peak memory of a call, and the machine's peak rate of matrix products."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot_bench.profiling.cost import Cost, counting
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.utils.memory import give_back_memory

Run = Callable[[], Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    """Median seconds of ours and of the official code, and the median ratio over pairs."""

    ours: float
    official: float
    ratio: float


def seconds(work: Run, clock: Clock = time.perf_counter) -> float:
    """Seconds of one call."""
    start = clock()
    work()
    return clock() - start


def in_pairs(
    ours: Run,
    official: Run,
    pairs: int,
    repeats: int = 1,
    warm: bool = True,
    clock: Clock = time.perf_counter,
) -> Pair:
    """Time both in turn; `repeats` calls of ours per pair, of which the median counts.

    One call of each comes first as warm-up, untimed; with `warm=False`, of ours only.
    """
    ours()
    if warm:
        official()
    mine, theirs = [], []
    for _ in range(pairs):
        mine.append(statistics.median(seconds(ours, clock) for _ in range(repeats)))
        theirs.append(seconds(official, clock))
    ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True))
    return Pair(statistics.median(mine), statistics.median(theirs), ratio)


def peak_megabytes(work: Run) -> float:
    """Peak growth of the resident set while `work` runs, in MiB, after one warm-up call."""
    import psutil

    work()
    give_back_memory()
    before = psutil.Process().memory_info().rss / 2**20
    memory = PeakMemory(torch.device("cpu"))
    with memory.watch():
        work()
    give_back_memory()
    return memory.megabytes - before


def work_of(run: Run) -> Cost:
    """Encoder cost of one call."""
    done = Cost()
    with counting(done):
        run()
    return done


def product_peak(shapes: Sequence[tuple[int, int, int]], rounds: int = 7) -> float:
    """FLOP/s of float32 matrix products of these shapes (m, k, n), best of several rounds."""
    best = 0.0
    for m, k, n in shapes:
        product = partial(torch.mm, torch.randn(m, k), torch.randn(k, n), out=torch.empty(m, n))
        best = max(best, *(2 * m * k * n / seconds(product) for _ in range(rounds)))
    return best


def machine() -> str:
    """One line about the machine: processor, threads, load, versions."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((x.partition(":")[2].strip() for x in lines if "model name" in x), name)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {torch.get_num_threads()} threads{load}, torch {torch.__version__}, float32"
