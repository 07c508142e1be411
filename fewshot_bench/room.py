"""Whether the disk and the memory suffice for a run, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.errors import FsbenchError
from fewshot_bench.spec import RunSpec
from fewshot_bench.store_files import free_bytes
from fewshot_bench.wording import size_text

if TYPE_CHECKING:
    from fewshot_bench.dataset import Dataset

# What a record takes, and one line of the arrays beside it next to its logits: label and name.
RECORD_BYTES = 8_192
ROW_BYTES = 64
SPARE_BYTES = 2**24
# Python with torch and the smallest backbone, as little as was ever seen.
WORKER_BYTES = 320 * 2**20
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


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
    """What these cells need; weights count where they are a local file."""
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
    _, at, file = backbone.partition("@")
    try:
        return Path(file).expanduser().stat().st_size if at else 0
    except OSError:
        return 0


def check_disk(store: Path, bytes_needed: int) -> None:
    """NoRoomError when the store's file system has less than this free."""
    free = free_bytes(store)
    if free < bytes_needed + SPARE_BYTES:
        raise NoRoomError(
            f"the results need up to {size_text(bytes_needed)} and '{store}' has "
            f"{size_text(free)} left; make room, choose another disk with --store DIR, or ask for "
            "fewer cells"
        )


def check_memory(workers: int, bytes_each: int) -> None:
    """NoRoomError when so many workers cannot fit into the memory that is free."""
    free = free_memory()
    if free is None or free >= workers * bytes_each:
        return
    fit = free // bytes_each
    step = f"use --jobs {fit}" if fit else "end other programs, or take a smaller backbone"
    raise NoRoomError(
        f"{workers} workers need {size_text(workers * bytes_each)} of memory or more and "
        f"{size_text(free)} is free; {step}"
    )


def free_memory() -> int | None:
    """Bytes that this process may still use: of the machine, or of its container."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in _LIMITS:
        try:
            most = (_CGROUP / limit).read_text(encoding="ascii").strip()
            now = (_CGROUP / used).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if most.isdigit() and now.isdigit():
            # What the page cache holds counts as used and can be given back.
            free = min(free, max(int(most) - int(now) + _reclaimable(), 0))
    return free


def _reclaimable() -> int:
    for name in ("memory.stat", "memory/memory.stat"):
        try:
            lines = (_CGROUP / name).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        found = dict(line.split() for line in lines if len(line.split()) == 2)
        return sum(int(found.get(key, 0)) for key in ("inactive_file", "active_file"))
    return 0
