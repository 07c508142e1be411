"""Stores for tests of the store's commands: complete ones, and ways to damage them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.api.metrics import rounded
from fewshot_bench.api.record import Record, digests_of_text
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import Store
from tests.support.answers import answers_of, put_answers

QUERIES, CLASSES = 30, 4


def result(seed: int, shift: float = 0.0, **spec: Any) -> tuple[Record, np.ndarray, list[int]]:
    """A done record with its logits and labels; `shift` moves one logit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(QUERIES, CLASSES)).astype(np.float32)
    logits[0, 0] += shift
    labels = [number % (CLASSES - 1) for number in range(QUERIES)]
    values = {"method": "m", "dataset": "d", "shots": 1, "split_seed": seed, "train_seed": seed}
    record = Record(
        RunSpec(**{**values, **spec}),
        "done",
        split={"digest": "s" * 64, "test": QUERIES, "classes": CLASSES},
        metrics=rounded(answers_of(logits, labels)),
        timings={"billed_seconds": 1.25 + seed},
        environment={"device_name": "x86_64", "threads": 2, "packages": {"torch": "2.6"}},
    )
    return record, logits, labels


def put(store: Store, seed: int, shift: float = 0.0, **spec: Any) -> Path:
    """Store a done cell; return the path of its record file."""
    record, logits, labels = result(seed, shift, **spec)
    put_answers(store, record, logits, labels, [f"q{number}" for number in range(QUERIES)])
    return store.file(record.spec.key())


def put_failed(store: Store, seed: int) -> Path:
    record, _, _ = result(seed)
    error = {"type": "RuntimeError", "message": "broke", "traceback": ""}
    store.write(Record(record.spec, "failed", error=error))
    return store.file(record.spec.key())


def filled(folder: Path, seeds: Sequence[int] = (1, 2, 3)) -> Store:
    """A store with cells of these seeds."""
    store = Store(folder)
    store.create()
    for seed in seeds:
        put(store, seed)
    return store


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file under a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def age(monkeypatch: Any, seconds: float) -> None:
    """Shift the clock of the store's clean-up, and of the file system, forward by `seconds`."""
    now = time.time
    monkeypatch.setattr("fewshot_bench.store.clean.time.time", lambda: now() + seconds)
    monkeypatch.setattr("fewshot_bench.store.clean.clock_of", lambda folder: now() + seconds)


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)


KILLED = """
import os, sys
from fewshot_bench.cli.main import main
replace, left = os.replace, [int(sys.argv[1])]
def dying(source, target):
    if left[0] == 0:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    replace(source, target)
os.replace = dying
sys.argv = ["fsbench", *sys.argv[2:]]
main()
"""


def killed_at(moment: int, *words: object) -> bool:
    """Run a command that is killed just before its rename number `moment`; True if it was."""
    command = [sys.executable, "-c", KILLED, str(moment), *map(str, words)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode in (0, -9), done.stderr.decode()
    return done.returncode == -9


def fit_digests(values: dict[str, Any]) -> None:
    """Recompute the digest of a record's changed values."""
    values["digests"].pop("record", None)
    values["digests"] = values.pop("digests")
    values["digests"]["record"] = digests_of_text(json.dumps(values).encode())[1]
