"""Estimates of the disk and memory of a run, checked before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.files import free_bytes
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.text import size_text

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset

# What a record takes, and one line of the arrays beside it next to its logits: label and name.
RECORD_BYTES = 8_192
ROW_BYTES = 64
SPARE_BYTES = 2**24
# Python with torch and the smallest backbone, as little as was ever seen.
WORKER_BYTES = 320 * 2**20


class NoRoomError(FsbenchError):
    """Disk or memory cannot hold what a run needs."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a run writes to its store, and bytes of memory of one worker, at least."""

    disk: int
    worker: int

    def text(self, workers: int) -> str:
        """For --dry-run."""
        memory = size_text(workers * self.worker)
        return f"needs up to {size_text(self.disk)} of disk, and {memory} of memory or more"


def needs(cells: Sequence[RunSpec], datasets: Mapping[str, Dataset]) -> Needs:
    """Disk and memory for these cells; weights count where they are local files."""
    sizes = {name: _size(dataset) for name, dataset in datasets.items()}
    disk = 0
    for cell in cells:
        images, classes = sizes[cell.target or cell.dataset]
        rows = images if cell.limit is None else min(images, cell.limit)
        disk += RECORD_BYTES + rows * (4 * classes + ROW_BYTES)
    weights = max((_weights(cell.backbone) for cell in cells), default=0)
    return Needs(disk, WORKER_BYTES + weights)


def _size(dataset: Dataset) -> tuple[int, int]:
    return len(dataset.items().get("test", ())), len(dataset.card().classnames)


def _weights(backbone: str) -> int:
    folder = backbone.removeprefix("local-dir:")
    _, at, file = backbone.partition("@")
    try:
        if folder != backbone:
            return max(path.stat().st_size for path in Path(folder).expanduser().iterdir())
        return Path(file).expanduser().stat().st_size if at else 0
    except (OSError, ValueError):
        return 0


def check_disk(store: Path, bytes_needed: int) -> None:
    """NoRoomError when the store's file system has less than this free, or says nothing of it."""
    try:
        free = free_bytes(store)
    except OSError as error:
        raise NoRoomError(
            f"'{store}': cannot tell how much space is left there ({error.strerror}); check that "
            "the disk is there, or choose another one with --store DIR"
        ) from error
    if free < bytes_needed + SPARE_BYTES:
        raise NoRoomError(
            f"the results need up to {size_text(bytes_needed)} and '{store}' has "
            f"{size_text(free)} left; make room, choose another disk with --store DIR, or ask for "
            "fewer cells"
        )


def check_memory(workers: int, bytes_each: int, devices: int = 1) -> None:
    """NoRoomError when so many workers, on all devices, cannot fit into the memory that is free."""
    free = free_host_memory()
    if free >= workers * bytes_each:
        return
    fit = free // bytes_each
    if fit >= devices:
        step = f"use --jobs {fit // devices}"
    elif fit:
        step = f"name only {fit} in --devices"
    else:
        step = "end other programs, or take a smaller backbone"
    raise NoRoomError(
        f"{workers} workers need {size_text(workers * bytes_each)} of memory or more and "
        f"{size_text(free)} is free; {step}"
    )
