"""Crops of a batch: what is serial in it, crops per core of three ways, and what cutting costs
a main thread that launches kernels.

    python -m benchmarks.crops [--rounds N]

Synthetic photographs of 500 x 375 pixels to 224 x 224, 32 in a batch, decoded before. The ways are
measured in turns in one run: Pillow with batches that are stacked and then mirrored, Pillow as it
is used now, and torch (`--augment device` on a CPU). Costs are CPU seconds of one thread, the least
of all rounds; rates of threads and launches are by the wall clock, so leave the machine alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.images import Transform, photograph
from fewshot_bench import Augment, DatasetCard, Item
from fewshot_bench.images import loader
from fewshot_bench.images.augment import draw_crops
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.utils.prefetch import DEPTH, workers
from tests.reference.crops import cut_parts, stack_and_mirror

BATCH, BATCHES = 32, 8
AUGMENT = Augment()
SECONDS = 2.0


class Photographs:
    """Photographs without files: only their decoded pixels are ever read."""

    def card(self) -> DatasetCard:
        """A card with one class."""
        return DatasetCard("photographs", "Photographs", ("image",))

    def items(self) -> dict[str, tuple[Item, ...]]:
        """One batch of images."""
        return {"train": tuple(Item(str(n), 0, "image") for n in range(BATCH))}

    def read(self, item: Item) -> bytes:
        """Nothing: the images are decoded already."""
        raise NotImplementedError(item)


def source(threads: int, *, by_torch: bool = False) -> ImageSource:
    """The photographs, decoded and held in memory."""
    dataset: Any = Photographs()
    made = ImageSource(
        ImageFiles(dataset, dataset.items()["train"]),
        BATCH,
        Transform(),  # type: ignore[arg-type]
        by_torch=by_torch,
        threads=threads,
        depth=DEPTH,
    )
    with mock.patch.object(made._files, "decode", photograph):
        made._crop_batch(made.visit(range(BATCH), [0] * BATCH, [0]), slice(BATCH), AUGMENT)
    return made


def cpu(work: Callable[[], Any]) -> float:
    """CPU milliseconds of this process for one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def idle(*arguments: Any) -> None:
    """Cut nothing."""


def print_costs(rounds: int) -> None:
    """Print milliseconds of a batch, its serial part, and crops per second of one core."""
    pillow, fast = source(1), source(1, by_torch=True)
    size = Transform.image_size
    visits = pillow.visit(range(BATCH), [0] * BATCH, [1])
    images = [pillow._rgb.get(index)[0] for index in range(BATCH)]
    crops = draw_crops([image.size for image in images], AUGMENT, visits.numbers(slice(BATCH)))
    parts = cut_parts(images, crops, size)

    def batch_of(images: ImageSource) -> Callable[[], Any]:
        return lambda: images._crop_batch(visits, slice(BATCH), AUGMENT)

    # What is left of a batch without the work of its threads is serial.
    ways: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "Pillow, stacked and mirrored": (
            lambda: stack_and_mirror(cut_parts(images, crops, size), crops),
            lambda: stack_and_mirror(parts, crops),
        ),
        "Pillow": (batch_of(pillow), batch_of(pillow)),
        "torch": (batch_of(fast), batch_of(fast)),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (whole, serial) in ways.items():
            spent = cpu(whole)
            with mock.patch.multiple(loader, cut=idle, cut_by_torch=idle):
                taken[name].append((spent, cpu(serial)))
    print(f"{'':<32}{'ms/batch':>10}{'serial ms':>11}{'serial':>8}{'crops/s':>9}{'ratio':>7}")
    least = {
        name: [min(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()
    }
    first = least["Pillow, stacked and mirrored"][0]
    for name, (milliseconds, alone) in least.items():
        rate = 1e3 * BATCH / milliseconds
        print(
            f"{name:<32}{milliseconds:>10.1f}{alone:>11.2f}{alone / milliseconds:>8.1%}"
            f"{rate:>9,.0f}{first / milliseconds:>7.2f}"
        )


def count_busy(threads: int) -> float:
    """Seconds that the pool's threads have run, or waited for a core only, by Linux's scheduler."""
    ids = [thread.native_id for thread in workers(threads)._threads]
    spent = [Path(f"/proc/self/task/{one}/schedstat").read_text().split() for one in ids]
    return sum(int(ran) + int(runnable) for ran, runnable, _ in spent) / 1e9


def print_rates(rounds: int) -> None:
    """Print crops per second by number of threads, and what bounds them.

    On a busy machine too, threads scale if none of their time is lost to the interpreter or to each
    other: a crop takes as much CPU time as before, and they are runnable all the time.
    """
    print(f"\n{'':<32}{'threads':>10}{'CPU ms/crop':>13}{'runnable':>10}{'crops/s':>9}")
    order = list(range(BATCH)) * BATCHES
    for name, by_torch in (("Pillow", False), ("torch", True)):
        for threads in (1, 2):
            images, found = source(threads, by_torch=by_torch), []
            for number in range(rounds + 1):
                # The first round starts the threads.
                busy = count_busy(threads)
                start, spent = time.perf_counter(), time.process_time()
                for _ in images.batches(BATCH, order, AUGMENT, range(number, number + BATCHES)):
                    pass
                passed = time.perf_counter() - start
                each = 1e3 * (time.process_time() - spent) / len(order)
                share = (count_busy(threads) - busy) / passed / threads
                found.append((each, share, len(order) / passed))
            costs, shares, rates = zip(*found[1:], strict=True)
            print(
                f"{name:<32}{threads:>10}{min(costs):>13.2f}{statistics.median(shares):>10.1%}"
                f"{max(rates):>9,.0f}"
            )


def cut_until(ended: Any, cut: Any, by_torch: bool) -> None:
    """Cut batches in this thread until `ended`; `cut` counts them."""
    torch.set_num_threads(1)
    images = source(1, by_torch=by_torch)
    visits = images.visit(range(BATCH), [0] * BATCH, [1])
    while not ended.is_set():
        images._crop_batch(visits, slice(BATCH), AUGMENT)
        cut.value += BATCH


@contextmanager
def beside(kind: str, by_torch: bool) -> Iterator[Callable[[], int]]:
    """A thread or a process that cuts; gives the number of crops so far."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.images"])
    ended, cut = context.Event(), context.Value("q", 0)
    start: Any = threading.Thread if kind == "thread" else context.Process
    worker = start(target=cut_until, args=(ended, cut, by_torch))
    worker.start()
    while not cut.value:
        time.sleep(0.05)
    yield lambda: int(cut.value)
    ended.set()
    worker.join()


def count_launches() -> float:
    """Operators per second that this thread launches, each of a few microseconds."""
    values, more = torch.zeros(64, 64), torch.zeros(64, 64)
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < SECONDS:
        for _ in range(100):
            values.add_(more)
        count += 100
    return count / passed


def print_launches(rounds: int) -> None:
    """Print what a main thread launches beside one cutting thread, or process."""
    print(f"\n{'launches/s of a main thread':<32}{'launches/s':>12}{'share':>8}{'crops/s':>9}")
    rows: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        rows.setdefault("alone", []).append((count_launches(), 0.0))
        for name, by_torch in (("Pillow", False), ("torch", True)):
            for kind in ("thread", "process"):
                with beside(kind, by_torch) as cut:
                    start, before = time.perf_counter(), cut()
                    launched = count_launches()
                    rate = (cut() - before) / (time.perf_counter() - start)
                rows.setdefault(f"beside a {kind}, {name}", []).append((launched, rate))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in rows.items()
    }
    for name, (launched, rate) in medians.items():
        share = launched / medians["alone"][0]
        print(f"{name:<32}{launched:>12,.0f}{share:>8.0%}{rate:>9,.0f}")


def main() -> None:
    """Measure and print three tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crops", description="Crops of a batch, on one and two cores."
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each measurement (default: 7)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print_costs(3 * rounds)
    print_rates(rounds)
    print_launches(rounds)


if __name__ == "__main__":
    main()
