"""The local engine: killed parents and killed workers."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.local import LocalEngine, slots
from fewshot_bench.store.store import Store
from tests.support.helpers import (
    PATIENCE,
    assert_sound,
    cells,
    children,
    fsbench,
    is_running,
    problems,
    record_files,
    start,
    wait_until,
)

ONE = Settings(threads=1)
SECONDS = "seconds=0.1"
SEEDS = tuple(range(1, 13))


def arguments(store: Path) -> tuple[object, ...]:
    """Arguments of a run with twelve short cells."""
    few = ("--dataset", "digits", "--shots", "1", "--seeds", "1-12", "--limit", "20")
    return ("run", "--method", "slow", "-o", SECONDS, *few, "--jobs", "2", "--store", store)


def specs() -> list[RunSpec]:
    """The cells of `arguments`."""
    return cells("slow", options=[SECONDS], seeds=SEEDS, limit=20)


def finished(store: Path) -> dict[str, tuple[bytes, int]]:
    """Files of finished cells, whose record is stored beside the logits."""
    files = record_files(store)
    return {name: value for name, value in files.items() if Path(name).stem + ".json" in files}


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(methods: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    before: dict[str, tuple[bytes, int]] = {}
    for kill in range(3):
        process = start(*arguments(tmp_path), start_new_session=True)
        # Wait for a few more cells; on a fresh start, kill before the first one.
        target = len(before) + (2 * rng.randrange(1, 3) if kill else 0)
        wait_until(lambda p=process.pid: bool(children(p)))
        wait_until(lambda t=target: len(finished(tmp_path)) >= t)
        workers = children(process.pid)
        time.sleep(0.15 * rng.random())
        if kill % 2:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        wait_until(lambda w=workers: not any(is_running(pid) for pid in w))
        after = finished(tmp_path)
        assert {name: after[name] for name in before} == before
        before = after
    assert len(before) < 2 * len(SEEDS)
    result = fsbench(*arguments(tmp_path))
    assert result.code == 0, result
    assert f"{len(before) // 2} done already" in result.out
    after = finished(tmp_path)
    assert {name: after[name] for name in before} == before
    assert_sound(tmp_path, specs())
    assert not list((tmp_path / "records").rglob(".fsbench-tmp*"))


@pytest.mark.slow
def test_a_lost_worker_costs_its_cell_alone(methods: Any, tmp_path: Path) -> None:
    bad, good = cells("bad-fit", "zero-shot", options=["how=kill"])
    with LocalEngine(Store(tmp_path), ONE) as engine:
        records = {
            record.spec.method: record for record in engine.run([bad, good], lambda *_: None)
        }
    assert records["zero-shot"].status == "done"
    error = records["bad-fit"].error
    assert error is not None
    assert (error["type"], "killed by signal 9 (out of memory?) 2 times" in error["message"]) == (
        "WorkerLost",
        True,
    )
    assert Store(tmp_path).get(bad.key()) == records["bad-fit"]


@pytest.mark.slow
def test_a_worker_that_is_killed_once_costs_nothing(methods: Any, tmp_path: Path) -> None:
    todo = cells("slow", options=["seconds=0.6"], seeds=(1, 2, 3))
    killed: list[int] = []

    def progress(cell: RunSpec, done: int, total: int) -> None:
        if not killed:
            killed.append(engine._workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    with LocalEngine(Store(tmp_path), ONE) as engine:
        records = list(engine.run(todo, progress))
        workers = [worker.process.pid for worker in engine._workers]
    assert killed
    assert [record.status for record in records] == ["done"] * 3
    assert_sound(tmp_path, todo)
    assert not any(is_running(pid) for pid in workers)


def test_small_backbones_get_a_worker_per_core() -> None:
    count, threads = slots("tiny", "cpu", None)
    assert (count >= 1, threads) == (True, 1)
    assert slots("tiny", "cpu", 3) == (3, 1)
    assert slots("ViT-B-16/openai", "cpu", None)[0] == 1
    assert slots("ViT-B-16/openai", "cuda", None) == (1, None)


def test_a_limit_on_open_files_is_one_line(tmp_path: Path) -> None:
    few = ("--dataset", "digits", "--shots", "1", "--seeds", "1-16", "--limit", "20")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = set(os.listdir("/proc/self/fd"))
    free = [number for number in range(before[0]) if str(number) not in opened]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[40], before[1]))
    try:
        done = fsbench(
            "run", "--method", "zero-shot", *few, "--jobs", "16", "--store", tmp_path / "store"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert done.code == 1
    (line,) = problems(done.err)
    assert line.startswith("error: cannot start worker")
    assert "Too many open files; use fewer --jobs" in line


KILLED = """
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Killed:
    name: ClassVar[str] = "killed"

    def fit(self, task, backbone, ctx):
        end = Path("NOW").read_text() if Path("NOW").exists() else ""
        if end == "raise":
            raise OSError(24, "Too many open files")
        if end == "kill":
            os.kill(os.getpid(), 9)
        return ZeroShot().fit(task, backbone, ctx)
"""


def test_a_failure_of_the_machine_does_not_cost_an_earlier_result(tmp_path: Path) -> None:
    ends = {
        "raise": "OSError: [Errno 24] Too many open files",
        "kill": "2 times in this cell",
    }
    store, now = tmp_path / "store", tmp_path / "now"
    few = ("--dataset", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1")
    run = ("run", "--method", f"{tmp_path}/killed.py:Killed", *few, "--store", store)
    (tmp_path / "killed.py").write_text(KILLED.replace("NOW", str(now)), encoding="utf-8")
    assert fsbench(*run).code == 0
    before = record_files(store)
    for end, said in ends.items():
        now.write_text(end, encoding="utf-8")
        forced = fsbench(*run, "--force")
        assert forced.code == 1
        assert f"{said}; the earlier result is kept" in forced.out + forced.err
        assert record_files(store) == before
    # Without an earlier result the failure is stored, and the next run tries the cell again.
    other = (*run[:-1], tmp_path / "other")
    assert fsbench(*other).code == 1
    (failed,) = Store(tmp_path / "other").records()
    assert (failed.status, failed.transient) == ("failed", True)
    now.unlink()
    assert fsbench(*other).code == 0


SHARING = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fewshot_bench.utils.memory import count_sharers, count_workers
from fsbench_methods.zero_shot import ZeroShot


@dataclass(frozen=True)
class Sharing:
    name: ClassVar[str] = "sharing"

    def fit(self, task, backbone, ctx):
        Path("SHARED").write_text(f"{count_sharers()} {count_workers()}")
        return ZeroShot().fit(task, backbone, ctx)
"""


def test_workers_that_never_start_take_no_share_of_the_memory(tmp_path: Path) -> None:
    text = SHARING.replace("SHARED", str(tmp_path / "shared"))
    (tmp_path / "sharing.py").write_text(text, encoding="utf-8")
    few = ("--dataset", "digits", "--shots", "1", "--limit", "20", "--jobs", "4")
    run = ("run", "--method", f"{tmp_path}/sharing.py:Sharing", *few, "--store", tmp_path / "store")
    for seeds, shared in (("1", "1 1"), ("2,3", "2 2")):
        done = fsbench(*run, "--seeds", seeds)
        assert done.code == 0, done
        assert (tmp_path / "shared").read_text() == shared


def test_results_that_are_gone_at_the_end_of_a_run_are_counted(
    methods: Any, tmp_path: Path
) -> None:
    def remove_two() -> None:
        wait_until(lambda: len(finished(tmp_path)) >= 8)
        for record in sorted(tmp_path.glob("records/*/*.json"), key=lambda p: p.stat().st_mtime)[
            :2
        ]:
            record.unlink()

    remover = threading.Thread(target=remove_two)
    remover.start()
    done = fsbench(*arguments(tmp_path))
    remover.join()
    assert f"2 of 12 results are no longer in '{tmp_path}'" in done.err
    assert done.code == 1
    result = fsbench(*arguments(tmp_path))
    assert result.code == 0
    assert "10 done already, 2 to run" in result.out
