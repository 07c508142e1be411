"""The store under kills, concurrent writers and full disks."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot_bench.store.store import TEMPORARY, Store
from fewshot_bench.utils import files as store_module
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.processes import this_machine
from tests.support.answers import stored_arrays
from tests.support.store_cases import filled
from tests.support.store_records import make, put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "results", [])


def test_create_removes_only_stale_temporary_files(store: Store) -> None:
    folder = store.root / "ab"
    folder.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = this_machine()
    names = {
        f"{TEMPORARY}~{here}~{dead.pid}~1": False,
        f"{TEMPORARY}~{here}~{os.getpid()}~2": True,
        f"{TEMPORARY}~elsewhere~{dead.pid}~3": True,
        f"{TEMPORARY}~elsewhere~{dead.pid}~4": False,
        "notes.txt": True,
    }
    for name in names:
        (folder / name).write_text("half")
    old = time.time() - 2 * store_module.STALE_SECONDS
    os.utime(folder / f"{TEMPORARY}~elsewhere~{dead.pid}~4", (old, old))
    store.create()
    assert {name: (folder / name).exists() for name in names} == names


def test_a_full_disk_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = put(store, make())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space .* left.*continues"):
        put(store, make(status="failed"))
    monkeypatch.undo()
    assert store.complete(key)
    assert not list(store.root.rglob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("moment", [0, 1])
def test_a_kill_while_replacing(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: int, changed: bool
) -> None:
    """An equal result is never lost; a record is never left with the logits of another."""
    key = put(store, make())
    replace, calls = os.replace, iter(range(9))

    def killed(source: Path, target: Path) -> None:
        if next(calls) == moment:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put(store, make(), n=5 if changed else 4)
    monkeypatch.undo()
    assert store.complete(key) == (not changed)


WRITER = """
import sys
import numpy as np
from fewshot_bench.api.record import SCHEMA, Record
from fewshot_bench.utils.processes import this_machine
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import Store
from fewshot_bench.api.metrics import Answers
store = Store(sys.argv[1])
first, last = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for seed in range(first, last):
    record = Record(RunSpec("m", "d", 1, seed, seed), "done", metrics={"top1": float(seed)})
    answers = Answers.of(np.full((400, 10), seed, np.float32), np.full(400, seed % 10))
    store.write(record, answers, [f"{seed}-{i}" for i in range(400)])
    print(seed, flush=True)
"""


def start_writer(store: Store, first: int, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(store.path), str(first), str(last)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def assert_whole(store: Store, seeds: set[int]) -> None:
    found = {record.spec.split_seed: record for record in store.records()}
    assert store.damaged == []
    assert seeds <= set(found)
    for seed, record in found.items():
        arrays = stored_arrays(store, record.spec.key())
        assert set(arrays["logits"].ravel().tolist()) == {seed}
        assert arrays["ids"][-1] == f"{seed}-399"


def test_kill_loses_only_the_cell_in_flight(store: Store) -> None:
    draw = random.Random(7)
    written: set[int] = set()
    for round_number in range(12):
        process = start_writer(store, 0, 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Kill after this many more cells, somewhere within the next one.
        lines = [process.stdout.readline() for _ in range(draw.randrange(6))]
        time.sleep(draw.uniform(0.0, 0.03))
        process.kill()
        rest = process.stdout.read().split("\n")[:-1]
        written |= {int(line) for line in [*lines, *rest]}
        process.wait()
        process.stdout.close()
        if round_number % 4 == 3:
            assert_whole(store, written)
    assert written
    store.create()
    assert not list(store.root.rglob(f"{TEMPORARY}*"))
    assert_whole(store, written)


def test_concurrent_writers_of_the_same_cells(store: Store) -> None:
    processes = [start_writer(store, 0, 60) for _ in range(3)]
    while any(process.poll() is None for process in processes):
        list(store.records())
    for process in processes:
        assert process.returncode == 0
        assert process.stdout is not None
        process.stdout.close()
    assert_whole(store, set(range(60)))
    assert not list(store.root.rglob(f"{TEMPORARY}*"))
