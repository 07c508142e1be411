"""Workers that end after they handed in a result, and cells whose time is not in the record."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.label_process import with_wall_time
from fewshot_bench.store.store import Store
from tests.support.helpers import Result, fsbench, record_files

PLUGIN = """
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fewshot_bench import Record
from fewshot_bench.runner.verdict import Answered
from fsbench_methods.zero_shot import ZeroShot


def hand_in(queries):
    frame = sys._getframe(1)
    while not ("session" in frame.f_locals and "cell" in frame.f_locals):
        frame = frame.f_back
    examiner, spec = frame.f_locals["session"].examiner, frame.f_locals["cell"].spec
    examiner.settle(Answered(Record(spec, "done"), np.zeros((queries, 10), np.float32)))
    os._exit(0)


@dataclass
class Answers:
    inner: Any
    how: str
    once: Path

    def logits(self, queries):
        if self.how == "hand-in":
            hand_in(len(queries))
        return self.inner.logits(queries)

    def tensors(self):
        return self.inner.tensors()

    def __del__(self):
        # The harness makes copies, of which the fitted one goes last.
        sys.modules[__name__].LIVING -= 1
        if self.how in ("always", "once") and not LIVING and not self.once.exists():
            if self.how == "once":
                self.once.touch()
            os._exit(0)

    def __copy__(self):
        return made(self.inner, self.how, self.once)


LIVING = 0


def made(*values):
    sys.modules[__name__].LIVING += 1
    return Answers(*values)


@dataclass(frozen=True)
class Leaving:
    name: ClassVar[str] = "leaving"
    how: str = "honest"
    once: str = ""

    def fit(self, task, backbone, ctx):
        return made(ZeroShot().fit(task, backbone, ctx), self.how, Path(self.once))
"""


def run(folder: Path, how: str) -> tuple[Result, Record, Record]:
    """A run of the plug-in and of zero-shot, and both records."""
    (folder / "leaving.py").write_text(PLUGIN, encoding="utf-8")
    done = fsbench(
        *("run", "-m", f"{folder}/leaving.py:Leaving,zero-shot", "--jobs", "1"),
        *("-o", f"{folder}/leaving.py:Leaving.how={how}"),
        *("-o", f"{folder}/leaving.py:Leaving.once={folder}/once"),
        *("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20"),
        *("--backbone", "tiny", "--store", folder / "store"),
    )
    records = {record.spec.method: record for record in Store(folder / "store").records()}
    return done, records.pop("zero-shot"), *records.values()  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["hand-in", "always"])
def test_a_worker_that_ends_itself_after_a_result_costs_that_result(
    tmp_path: Path, how: str
) -> None:
    done, other, record = run(tmp_path, how)
    assert done.code == 1
    assert other.status == "done"
    assert (record.status, record.metrics) == ("failed", {})
    assert record.error is not None
    assert record.error["type"] == "WorkerLost"
    assert "ended with exit code 0 2 times in this cell" in record.error["message"]


def test_a_worker_that_ends_once_costs_nothing(tmp_path: Path) -> None:
    done, other, record = run(tmp_path, "once")
    assert (done.code, other.status, record.status) == (0, "done", "done")
    assert [incident["kind"] for incident in record.incidents] == ["retried"]
    assert other.incidents == ()
    assert len(record_files(tmp_path / "store")) == 4
    # The wall time is taken outside the method.
    for each in (other, record):
        assert each.timings["wall_seconds"] > 0.5 * each.timings["elapsed_seconds"] > 0


@pytest.mark.parametrize(
    ("elapsed", "seconds", "said"),
    [
        (100.0, 120.0, ""),
        # The harness itself takes time for the digests of a large backbone.
        (0.5, 25.0, ""),
        (400.0, 700.0, ""),
        (5.0, 600.0, "took 600 s by the clock of another process, and its record accounts for 5 s"),
        (0.0, 40.0, "took 40 s"),
    ],
)
def test_a_record_that_accounts_for_little_of_its_time_says_so(
    elapsed: float, seconds: float, said: str
) -> None:
    spec = RunSpec("own", "digits", 1, split_seed=1, train_seed=1)
    record = Record(spec, "done", timings={"elapsed_seconds": elapsed})
    timed = with_wall_time(record, seconds)
    assert timed.timings["wall_seconds"] == seconds
    assert [incident["kind"] for incident in timed.incidents] == ["time"] * bool(said)
    assert all(said in incident["text"] for incident in timed.incidents)
    failed = dataclasses.replace(record, status="failed")
    assert with_wall_time(failed, seconds) is failed
