"""Helpers for tests of cluster engines: the matrix, and the expected final state of a run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.helpers import PATIENCE, fsbench, start, wait_until

FEW = ("zero-shot", "tip-adapter")
DEMO = (
    *("run", "--method", ",".join(FEW), "--dataset", "digits", "--shots", "1", "--seeds", "1,2,3"),
    *("--limit", "60"),
)
TRACK = ("--track", "tensorboard") if find_spec("tensorboard") else ()
CELLS = len(FEW) * 3


def require(missing: str) -> None:
    """Skip if something is missing; fail instead if FSBENCH_TEST_CLUSTERS is set."""
    if missing and os.environ.get("FSBENCH_TEST_CLUSTERS"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def results(store: Path) -> dict[str, Record]:
    """Records of a store by key."""
    return {record.spec.key(): record for record in Store(store).records()}


def same_as(local: Mapping[str, Record], store: Path) -> None:
    """Assert that every cell is stored once, undamaged and bit-identical to the local engine's."""
    records = results(store)
    assert set(records) == set(local)
    for key, record in records.items():
        assert record.status == "done", record.error
        assert record.digests["logits"] == local[key].digests["logits"], record.spec.describe()
        assert record.metrics == local[key].metrics
    assert fsbench("store", "verify", "--store", store).code == 0


def tracked(store: Path) -> None:
    """Assert that cells were tracked; those that a killed node had yet to report may be missing."""
    if TRACK:
        assert CELLS // 2 <= len(list((store / "tracking" / "tensorboard").glob("*/*"))) <= CELLS


def run_and_kill(
    arguments: tuple[object, ...],
    store: Path,
    kill: Callable[[], None],
    environment: Mapping[str, str],
) -> subprocess.Popen[str]:
    """Start a run, wait for two records, call `kill`, and wait for a successful exit."""
    process = start(*arguments, env=dict(os.environ) | dict(environment))
    try:
        wait_until(lambda: len(results(store)) >= 2 or process.poll() is not None)
        assert len(results(store)) < CELLS, "nothing was left to compute"
        kill()
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, (out, err)
    return process
