"""The local engine when workers hang, take too long, or can no longer be trusted."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines import local
from fewshot_bench.engines import process as workers
from fewshot_bench.engines.base import EngineError, Settings
from fewshot_bench.engines.label_process import Connection
from fewshot_bench.engines.local import Choice, LocalEngine, by_fit
from fewshot_bench.engines.process import RetryPolicy, Slot, Worker
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.processes import this_machine
from tests.helpers import (
    PATIENCE,
    assert_sound,
    cells,
    fsbench,
    is_running,
    start,
    wait_until,
)

END = Worker.end


class Hurried:
    """Clock of the engine's worker checks, which runs fast while `now` returns True."""

    sleep = staticmethod(time.sleep)

    def __init__(self, log: Path) -> None:
        self.log, self.ahead, self.ended = log, 0.0, 0
        self.now: Callable[[], bool] = self.fits

    def fits(self) -> bool:
        """True while a fit that is in the log is running."""
        return self.log.exists() and len(self.log.read_text().split()) > self.ended

    def end(self, worker: Worker, reason: str) -> None:
        """Count the workers that the engine ends."""
        self.ended += 1
        END(worker, reason)

    def monotonic(self) -> float:
        """Advance by 150 seconds per call while `now` returns True."""
        self.ahead += 150.0 * self.now()
        return time.monotonic() + self.ahead


@pytest.fixture
def hurried(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Hurried:
    """Replace the engine's clock; the log is that of fits."""
    found = Hurried(tmp_path_factory.mktemp("fits") / "log")
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(found.log))
    monkeypatch.setattr(workers, "time", found)
    monkeypatch.setattr(Worker, "end", lambda worker, reason: found.end(worker, reason))
    return found


def run(store: Path, todo: list[RunSpec], settings: Settings) -> dict[str, Record]:
    """Records by method."""
    with LocalEngine(Store(store), settings) as engine:
        return {record.spec.method: record for record in engine.run(todo, lambda *_: None)}


@pytest.mark.slow
def test_a_cell_that_takes_too_long(
    methods: Any, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Heartbeats do not follow the fast clock.
    monkeypatch.setattr(workers, "SILENT_SECONDS", math.inf)
    todo = cells("slow", options=["seconds=3600"]) + cells("zero-shot")
    records = run(tmp_path, todo, Settings(threads=1, timeout=900, hang=math.inf))
    assert records["zero-shot"].status == "done"
    error = records["slow"].error
    assert error is not None
    assert (error["type"], error["transient"]) == ("TimeLimit", False)
    assert "time limit of 900 s" in error["message"]
    assert "time.sleep" in error["traceback"] or "in fit" in error["traceback"]
    # The failure belongs to the cell: the same command does not retry it.
    slow = ("run", "-m", "slow", "-o", "seconds=3600", "-d", "digits", "--shots", "1")
    done = fsbench(*slow, "--seeds", "1", "--limit", "40", "--store", tmp_path)
    assert (done.code, "1 failed before" in done.out) == (1, True), done


@pytest.mark.slow
def test_a_worker_that_gives_no_sign_of_life(
    methods: Any, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Heartbeats do not follow the fast clock.
    monkeypatch.setattr(workers, "SILENT_SECONDS", math.inf)
    todo = cells("bad-fit", options=["how=sleep"]) + cells("zero-shot")
    records = run(tmp_path, todo, Settings(threads=1, hang=900))
    assert records["zero-shot"].status == "done"
    error = records["bad-fit"].error
    assert error is not None
    assert (error["type"], error["transient"]) == ("WorkerLost", True)
    assert "no sign of life 2 times" in error["message"]
    assert "in fit" in error["traceback"]


@pytest.mark.slow
def test_time_in_which_the_run_was_stopped_does_not_count(
    methods: Any, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z, or by a scheduler that suspends jobs."""
    hurried.now = lambda: False
    monkeypatch.setattr(local, "time", hurried)

    def stopped(cell: RunSpec, done: int, total: int) -> None:
        hurried.ahead = 5000.0

    (todo,) = cells("slow", options=["seconds=1"])
    with LocalEngine(Store(tmp_path), Settings(threads=1, timeout=900, hang=900)) as engine:
        (record,) = engine.run([todo], stopped)
    assert (hurried.ahead, hurried.ended) == (5000.0, 0)
    assert (record.status, record.incidents) == ("done", ())


@pytest.mark.slow
def test_a_stopped_worker_costs_nothing(
    methods: Any, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker no longer reports anything, however long the engine waits.
    monkeypatch.setattr(workers, "DUMP_SECONDS", 1.0)
    todo = cells("slow", options=["seconds=1"], seeds=(1, 2))
    stopped: list[int] = []
    # Before the stop the clock must be normal: the fit would be overdue before its first step.
    hurried.now = lambda: False

    def progress(cell: RunSpec, done: int, total: int) -> None:
        if not stopped:
            stopped.append(engine._workers[0].process.pid)
            os.kill(stopped[0], signal.SIGSTOP)
            hurried.now = lambda: is_running(stopped[0])

    with LocalEngine(Store(tmp_path), Settings(threads=1)) as engine:
        records = list(engine.run(todo, progress))
    assert stopped
    assert [record.status for record in records] == ["done", "done"]
    (retried,) = [record for record in records if record.incidents]
    assert retried.incidents[0]["kind"] == "retried"
    assert "no sign of life" in retried.incidents[0]["text"]


@pytest.mark.slow
def test_a_lost_worker_is_tried_again_by_the_next_run(methods: Any, tmp_path: Path) -> None:
    kill = ("run", "-m", "bad-fit", "-o", "how=kill", "-d", "digits", "--shots", "1")
    arguments = (*kill, "--seeds", "1", "--limit", "40", "--store", tmp_path)
    for _ in range(2):
        done = fsbench(*arguments)
        assert (done.code, "1 to run" in done.out) == (1, True), done


@pytest.mark.slow
def test_several_runs_compute_each_cell_once(methods: Any, tmp_path: Path) -> None:
    log, gate = tmp_path / "fits", tmp_path / "ending"
    few = ("--dataset", "digits", "--shots", "1", "--seeds", "1-12", "--limit", "20")
    store = tmp_path / "store"
    arguments = ("run", "-m", "slow", "-o", "seconds=0", *few, "--store", store)
    gates = {"FSBENCH_TEST_FITS": str(log), "FSBENCH_TEST_ENDING": str(gate)}
    # No fit ends before every worker of every run is at one.
    gate.write_text("0")
    runs = [start(*arguments, "--jobs", n, env=dict(os.environ) | gates) for n in (1, 2)]
    try:
        wait_until(lambda: log.exists() and len(log.read_text().split()) == 3)
        gate.write_text("1000")
        ends = [process.communicate(timeout=PATIENCE) for process in runs]
    finally:
        for process in runs:
            process.kill()
    assert [process.returncode for process in runs] == [0, 0], ends
    assert log.read_text().split() == ["fit"] * 12
    assert_sound(store, cells("slow", options=["seconds=0"], seeds=tuple(range(1, 13)), limit=20))
    assert list((store / "claims").iterdir()) == []


@pytest.mark.slow
def test_a_child_of_a_killed_worker_holds_up_nothing(methods: Any, tmp_path: Path) -> None:
    records = run(tmp_path, cells("bad-fit", options=["how=fork"]), Settings(threads=1))
    error = records["bad-fit"].error
    assert error is not None
    assert "killed by signal 9" in error["message"]


def ended_worker(todo: list[RunSpec]) -> Worker:
    """A worker whose process ended at once; it needs no label process."""
    process = subprocess.Popen(["true"], text=True)
    process.wait()
    return Worker(Slot("cpu/0", "cpu"), process, cast(Connection, None), todo)


def test_workers_that_hang_at_once_are_few() -> None:
    losses = RetryPolicy(Settings())
    worker = ended_worker([])
    worker.ended = "hang"
    for _ in range(2):
        losses.count_failed_start(worker)
    with pytest.raises(EngineError, match="no sign of life"):
        losses.count_failed_start(worker)


def test_a_thread_that_a_plug_in_leaves_holds_up_nobody(methods: Any, tmp_path: Path) -> None:
    todo = cells("leaver") + cells("zero-shot")
    pids: set[int] = set()
    with LocalEngine(Store(tmp_path), Settings(threads=1)) as engine:
        for record in engine.run(todo, lambda *_: None):
            assert record.status == "done"
            pids |= {worker.process.pid for worker in engine._workers}
    assert len(pids) == 2


def test_a_worker_goes_on_with_what_it_holds() -> None:
    spread = cells("zero-shot", "linear-probe", datasets=("digits", "shapes"), seeds=(1, 2))
    waiting = [[cell] for cell in spread]
    choice, one, two = Choice(), object(), object()
    taken: dict[object, list[tuple[str, int]]] = {one: [], two: []}
    while waiting:
        for worker in (one, two):
            group = waiting.pop(choice.index(worker, waiting, [False] * len(waiting)))
            choice.took(worker, group)
            taken[worker].append((group[0].dataset, group[0].split_seed))
    for drawn in taken.values():
        # Both methods run on one support set before the next one.
        assert drawn[0] == drawn[1]
        assert drawn[2] == drawn[3]
    assert len(set(taken[one] + taken[two])) == 4


def test_near_the_end_fits_with_the_most_shots_come_first() -> None:
    sets = ("digits", "letters", "shapes")
    waiting = [[cell] for cell in cells("zero-shot", "linear-probe", datasets=sets, shots=(4, 1))]
    choice, one, two = Choice(), object(), object()
    taken: dict[object, list[int]] = {one: [], two: []}
    while waiting:
        for worker in (one, two):
            group = waiting.pop(choice.index(worker, waiting, [False] * len(waiting)))
            choice.took(worker, group)
            taken[worker].append(group[0].shots)
    # Six support sets are many for two workers; the remaining four are few.
    assert taken[one] == [4, 4, 4, 4, 1, 1]
    assert taken[two] == [1, 1, 4, 4, 1, 1]


def test_a_group_is_not_taken_where_it_was_lost() -> None:
    groups = [[cell] for cell in cells("zero-shot", seeds=(1, 2))]
    assert Choice().index(object(), groups, [True, False]) == 1
    assert Choice().index(object(), groups, [True, True]) == 0


def test_groups_share_a_fit() -> None:
    both = cells("zero-shot", classes=("base", "new"), seeds=(1, 2, 3))
    assert [len(group) for group in by_fit(both)] == [2, 2, 2]


def test_devices(tmp_path: Path) -> None:
    for devices, words in (
        ("tpu", "expected auto, cpu, cuda or cuda:N"),
        ("cpu,cuda:0", "one kind of device"),
        ("cuda:0,cuda:0", "stands there twice"),
        ("cuda:0,cuda:99", "CUDA devices; use cpu"),
    ):
        done = fsbench(
            *("run", "-m", "zero-shot", "-d", "digits", "--store", tmp_path),
            *("--device", devices, "--dry-run"),
        )
        assert (done.code, words in done.err) == (2, True), done


def test_slots_see_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-x")
    found = workers.slots_of(("cuda:0", "cuda:1"), 2)
    assert [slot.device for slot in found] == ["cuda"] * 4
    visible = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]
    assert visible == ["4", "GPU-x", "4", "GPU-x"]
    assert len({slot.name for slot in found}) == 4
    (only,) = workers.slots_of(("cuda",), 1)
    assert only.environment == {}


def test_a_run_that_waits_for_another_one_says_so(tmp_path: Path) -> None:
    (cell,) = cells("zero-shot")
    other = Leases(Store(tmp_path), "other")
    assert other.claim(cell.fit_key())
    options = ("--shots", "1", "--seeds", "1", "--limit", "40", "--jobs", "1")
    run = ("run", "-m", "zero-shot", "-d", "digits", *options, "--backbone", "tiny")
    process = start(*run, "--store", tmp_path, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("waiting for"):
                other.close()
    finally:
        process.kill()
        other.close()
    said = [line for line in lines if line.startswith("waiting for")]
    host = this_machine().rsplit("-", 2)[0]
    who = f"process {os.getpid()} on {host}"
    assert said == [f"waiting for 1 cell that other runs compute: {who}\n"], lines
    assert process.wait(PATIENCE) in (0, -signal.SIGKILL)
    assert_sound(tmp_path, [cell])
