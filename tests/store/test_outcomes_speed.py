"""Tables and predictions of 2,000 records with logits are fast."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from tests.synthetic_store import fill


def seconds_of(*words: str | Path) -> float:
    """CPU time of a command in its own process; may double if other processes share the caches."""
    before = os.times()
    command = [sys.executable, "-m", "fewshot_bench", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    children = "children_user", "children_system"
    return sum(getattr(after, name) - getattr(before, name) for name in children)


@pytest.mark.slow
def test_two_thousand_records_with_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        store = fill(tmp_path / "s", failed=4, zero_shot=True)
    assert seconds_of("compare", "--store", store.path) < 4.0
    # The first call reads the logits.
    seconds_of("compare", "--store", store.path, "--baseline", "coop")
    assert seconds_of("compare", "--store", store.path, "--baseline", "coop") < 6.0
    records = [record for record in store.records() if record.status == "done"]
    assert len(records) == 2009
    start = time.process_time()
    outcomes = Outcomes(Store(store.path))
    outcomes.prepare(records)
    assert sum(int(outcomes.of(record).hits.sum()) for record in records) > 0
    assert time.process_time() - start < 2.0
    assert seconds_of("compare", "--store", store.path, "--per-class") < 6.0
