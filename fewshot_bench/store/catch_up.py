"""Reads and verifies cells that the index of a store lacks in several processes.

`caught_up` is the entry point. It changes no result: what a process cannot read, verify or finish
is left to the caller, and a process that ends early costs time alone.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fewshot_bench.store.answer_files import check
from fewshot_bench.store.index import Index, Row
from fewshot_bench.store.record_files import RECORDS, read_fields, record_files, stamp_of
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.files import Damaged, sorted_entries
from fewshot_bench.utils.prefetch import cores

# One process verifies fewer cells in about two seconds.
WORTH = 5_000
MOST_PROCESSES = 8


def caught_up(folder: Path, cells: int) -> Index:
    """The index of a store, which has all its cells where one process would be slow to read them.

    cells: how many cells are to be looked up.
    """
    index, processes = Index.load(folder), min(cores(), MOST_PROCESSES)
    if processes == 1 or 2 * cells < WORTH:
        return index
    lacking = _records(folder) - index.verified()
    if lacking < WORTH or 2 * cells < lacking:
        return index
    _run([("read", str(folder), str(share), str(processes)) for share in range(processes)])
    # Rows in one file take less memory. Joining them here would take more.
    _run([("join", str(folder))])
    return Index.load(folder)


def _records(folder: Path) -> int:
    """The number of record files; 0 if the folder cannot be listed."""
    count = 0
    with suppress(OSError):
        for place in sorted_entries(folder / RECORDS):
            if place.is_dir():
                count += sum(name.endswith(".json") for name in os.listdir(place))
    return count


def _run(tasks: Sequence[Sequence[str]]) -> None:
    """Start a process for each task, and wait for all of them."""
    started: list[subprocess.Popen[bytes]] = []
    quiet = subprocess.DEVNULL
    try:
        # A machine at its limit of processes leaves the cells to this one.
        with suppress(OSError):
            for words in tasks:
                command = [sys.executable, "-P", "-m", __name__, *words]
                started.append(subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet))
        for process in started:
            process.wait()
    finally:
        for process in started:
            process.kill()
            process.wait()


def read_share(folder: Path, share: int, shares: int) -> None:
    """Write an index file of a share's cells that are not verified in the index.

    Nothing that is damaged is renamed.
    """
    known, found = Index.load(folder), Index(folder, [])
    folders = sorted_entries(folder / RECORDS)
    part = slice(len(folders) * share // shares, len(folders) * (share + 1) // shares)
    for file in record_files(folder / RECORDS, folders[part]):
        row = known.find(file.key, file.stamp)
        if row is not None and not row.is_unverified:
            continue
        try:
            row = found.add(file.key, file.stamp, read_fields(file.path, file.key))
        except (FileNotFoundError, Damaged, StoreError):
            continue
        _verify(file.path.with_suffix(".npz"), row)
    found.save(whole=False)


def _verify(path: Path, row: Row) -> None:
    """Mark the answers of a finished cell as verified if they are."""
    with suppress(OSError, Damaged, StoreError):
        stamp, record = stamp_of(path.stat()), row.record()
        if record.status == "done":
            check(path, record)
            row.check(stamp)


if __name__ == "__main__":
    # Records are many small objects without cycles.
    gc.disable()
    task, place, *numbers = sys.argv[1:]
    if task == "read":
        read_share(Path(place), *map(int, numbers))
    else:
        Index.load(Path(place)).join()
