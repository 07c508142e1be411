"""The local engine when workers hang, take too long, or can no longer be trusted."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines import local
from fewshot_bench.engines import process as workers
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.local import LocalEngine, choose, describe_data
from fewshot_bench.engines.process import Worker
from fewshot_bench.store.leases import Leases
from fewshot_bench.store.store import Store
from fewshot_bench.utils.processes import this_machine
from tests.support.helpers import (
    PATIENCE,
    assert_sound,
    cells,
    fsbench,
    is_running,
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
    clock = Hurried(tmp_path_factory.mktemp("fits") / "log")
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(clock.log))
    monkeypatch.setattr(workers, "time", clock)
    monkeypatch.setattr(Worker, "end", lambda worker, reason: clock.end(worker, reason))
    return clock


def run(store: Path, todo: list[RunSpec], settings: Settings) -> dict[str, Record]:
    """Records by method."""
    with LocalEngine(Store(store), settings) as engine:
        return {record.spec.method: record for record in engine.run(todo, lambda *_: None)}


@pytest.mark.slow
def test_a_cell_that_takes_too_long_and_one_that_hangs(
    methods: Any, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Heartbeats do not follow the fast clock.
    monkeypatch.setattr(workers, "SILENT_SECONDS", math.inf)
    todo = cells("slow", options=["seconds=3600"]) + cells("zero-shot")
    records = run(tmp_path, todo, Settings(threads=1, timeout=900, hang=math.inf))
    todo = cells("bad-fit", options=["how=sleep"])
    records |= run(tmp_path, todo, Settings(threads=1, hang=900))
    assert records["zero-shot"].status == "done"
    for name, kind, said in (
        ("slow", "TimeLimit", "time limit of 900 s"),
        ("bad-fit", "WorkerLost", "no sign of life 2 times"),
    ):
        error = records[name].error
        assert error is not None
        # A time limit is the cell's own failure: the same command does not retry it.
        assert (error["type"], error["transient"]) == (kind, kind == "WorkerLost")
        assert said in error["message"]
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


@pytest.mark.parametrize("who", ["label", "worker"])
def test_what_is_waited_for_is_named_once(
    methods: Any, who: str, tmp_path: Path, hurried: Hurried, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Heartbeats do not follow the fast clock.
    monkeypatch.setattr(workers, "SILENT_SECONDS", math.inf)
    hurried.now = lambda: False
    said: list[str] = []
    stopped: list[int] = []

    def told(text: str) -> None:
        said.append(text)
        # It is not said again while the same wait goes on.
        for _ in range(20):
            assert not engine._workers[0].find_stall()
        hurried.now = lambda: False
        os.kill(stopped[0], signal.SIGCONT)

    def progress(cell: RunSpec, done: int, total: int) -> None:
        worker = engine._workers[0]
        if not stopped:
            labels = engine._label_process
            assert labels is not None
            stopped.append(labels.process.pid if who == "label" else worker.process.pid)
            os.kill(stopped[0], signal.SIGSTOP)
            hurried.now = lambda: not said and (who == "worker" or bool(worker._asking))

    todo = cells("slow", options=["seconds=0.5"])
    engine = LocalEngine(Store(tmp_path), Settings(threads=1, hang=math.inf), say=told)
    with engine:
        (record,) = engine.run(todo, progress)
    assert record.status == "done"
    assert not record.incidents
    (text,) = said
    assert text.startswith("slow[seconds=0.5] on digits, 1-shot, seed 1 has waited for ")
    if who == "label":
        assert f"the label process ({stopped[0]}) does not answer " in text
    else:
        assert f"its worker (process {stopped[0]}) gives no sign of life" in text


@pytest.mark.slow
def test_several_runs_compute_each_cell_once(
    methods: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, gate, store = tmp_path / "fits", tmp_path / "ending", tmp_path / "store"
    # No fit ends before every worker of every run is at one.
    gate.write_text("0")
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(log))
    monkeypatch.setenv("FSBENCH_TEST_ENDING", str(gate))
    todo = cells("slow", options=["seconds=0"], seeds=tuple(range(1, 7)), limit=20)
    Store(store).create()
    jobs = [Settings(threads=1), Settings(threads=1, slots=2)]
    runs = [threading.Thread(target=run, args=(store, todo, settings)) for settings in jobs]
    for each in runs:
        each.start()
    wait_until(lambda: log.exists() and len(log.read_text().split()) == 3)
    gate.write_text("1000")
    for each in runs:
        each.join(PATIENCE)
    assert log.read_text().split() == ["fit"] * 6
    assert_sound(store, todo)
    assert list((store / "claims").iterdir()) == []


@pytest.mark.slow
def test_a_child_of_a_killed_worker_holds_up_nothing(methods: Any, tmp_path: Path) -> None:
    records = run(tmp_path, cells("bad-fit", options=["how=fork"]), Settings(threads=1))
    error = records["bad-fit"].error
    assert error is not None
    assert "killed by signal 9" in error["message"]


def test_a_thread_that_a_plug_in_leaves_holds_up_nobody(methods: Any, tmp_path: Path) -> None:
    todo = cells("leaver") + cells("zero-shot")
    pids: set[int] = set()
    with LocalEngine(Store(tmp_path), Settings(threads=1)) as engine:
        for record in engine.run(todo, lambda *_: None):
            assert record.status == "done"
            pids |= {worker.process.pid for worker in engine._workers}
    assert len(pids) == 2


def deal(waiting: list[list[RunSpec]]) -> list[list[RunSpec]]:
    """The cells that each of two workers gets, in turns."""
    dealt: list[list[RunSpec]] = [[], []]
    while waiting:
        for own, other in (dealt, dealt[::-1]):
            held = [describe_data(cells[-1]) for cells in (own, other) if cells]
            mine, others = (held[0], held[1:]) if own else (None, held)
            own += waiting.pop(choose(waiting, mine, others, [False] * len(waiting)))
    return dealt


def test_a_worker_goes_on_with_what_it_holds() -> None:
    spread = cells("zero-shot", "linear-probe", datasets=("digits", "shapes"), seeds=(1, 2))
    dealt = deal([[cell] for cell in spread])
    drawn = [[(cell.dataset, cell.split_seed) for cell in own] for own in dealt]
    for own in drawn:
        # Both methods run on one support set before the next one.
        assert own[0] == own[1]
        assert own[2] == own[3]
    assert len({*drawn[0], *drawn[1]}) == 4


def test_near_the_end_fits_with_the_most_shots_come_first() -> None:
    sets = ("digits", "letters", "shapes")
    waiting = [[cell] for cell in cells("zero-shot", "linear-probe", datasets=sets, shots=(4, 1))]
    # Six support sets are many for two workers; the remaining four are few.
    shots = [[cell.shots for cell in own] for own in deal(waiting)]
    assert shots == [[4, 4, 4, 4, 1, 1], [1, 1, 4, 4, 1, 1]]


def test_a_group_is_not_taken_where_it_was_lost() -> None:
    groups = [[cell] for cell in cells("zero-shot", seeds=(1, 2))]
    assert choose(groups, None, [], [True, False]) == 1
    assert choose(groups, None, [], [True, True]) == 0


def test_devices(tmp_path: Path) -> None:
    for devices, words in (
        ("tpu", "device 'tpu': this machine has cpu"),
        ("cuda:x", "expected auto, cpu or an accelerator"),
        ("cpu,cuda:0", "one kind of device"),
        ("cuda:0,cuda:0", "stands there twice"),
        ("cuda:0,cuda:99", "this machine has cpu"),
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
    (cell,), store = cells("zero-shot"), Store(tmp_path)
    other = Leases(store, "other")
    assert other.claim(cell.fit_key())
    lines = []

    def say(text: str) -> None:
        lines.append(text)
        other.close()

    with LocalEngine(store, Settings(threads=1), say=say) as engine:
        assert len(list(engine.run([cell], lambda *_: None))) == 1
    who = f"process {os.getpid()} on {this_machine().rsplit('-', 2)[0]}"
    assert lines == [f"waiting for 1 cell that other runs compute: {who}"]
    assert_sound(tmp_path, [cell])
