"""Workers are forked from a process that preloaded their imports, if that is safe."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fewshot_bench.engines import process as workers
from fewshot_bench.engines.base import Settings
from fewshot_bench.engines.label_process import LabelProcess
from fewshot_bench.engines.local import LocalEngine
from fewshot_bench.engines.process import Slot, Worker
from fewshot_bench.store.store import Store
from fewshot_bench.utils.start import VARIABLE
from tests.support.helpers import PATIENCE, cells, is_running, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux alone")
Begin = Callable[..., Worker]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """A function that starts workers; with `until`, it waits for that event."""
    workers = []

    def start(device: str = "cpu", until: str = "idle", **settings: Any) -> Worker:
        events: queue.Queue[Any] = queue.Queue()
        asked = Settings(**{"threads": 1} | settings)
        labels = LabelProcess(tmp_path, asked)
        slot = Slot(f"{device}/0", device)
        worker = Worker.start(slot, Store(tmp_path), asked, events, labels)
        workers.append(worker)
        while until and events.get(timeout=PATIENCE)[1].event != until:
            pass
        return worker

    yield start
    for worker in workers:
        worker.stop()
        worker.labels.labels.stop()


def parent(worker: Worker) -> int:
    """Parent process id of a worker's process."""
    return psutil.Process(worker.process.pid).ppid()


def test_workers_of_several_engines_are_forked_from_one_server(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, *_, last = (begin() for _ in range(3))
    pids = [worker.process.pid for worker in (first, last)]
    assert pids[0] != pids[1]
    assert parent(first) == parent(last)
    assert psutil.Process(parent(first)).ppid() == os.getpid()
    # The process with labels has not imported torch.
    labels = psutil.Process(first.labels.pid)
    assert labels.ppid() == os.getpid()
    assert not any("torch" in region.path for region in labels.memory_maps())
    # A worker has a session and a folder of its own, and nothing of other workers.
    assert os.getsid(pids[1]) == pids[1]
    assert psutil.Process(pids[1]).cwd() == str(tmp_path)
    assert len({psutil.Process(pid).num_fds() for pid in pids}) == 1
    outputs = {os.readlink(f"/proc/{pids[0]}/fd/{number}") for number in (1, 2)}
    held = Path(f"/proc/{pids[1]}/fd")
    assert not outputs & {os.readlink(entry) for entry in held.iterdir()}


@pytest.mark.parametrize("how", ["accelerator", "switched off"])
def test_other_workers_are_processes_of_their_own(
    how: str, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "switched off":
        monkeypatch.setenv(VARIABLE, "0")
    worker = begin("cuda" if how == "accelerator" else "cpu", until="")
    assert parent(worker) == os.getpid()


# Variables that imports of open_clip and of scikit-learn set in their own process.
SET_BY_IMPORTS = (
    *("TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_CACHE_DIR"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)


def test_another_variable_of_a_library_is_another_server(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = begin()
    monkeypatch.setenv("FSBENCH_SEEN_BY_WORKERS_ALONE", "1")
    for name in SET_BY_IMPORTS:
        monkeypatch.setenv(name, "set by an import")
    assert parent(begin()) == parent(usual)
    monkeypatch.setenv("TORCH_SHOW_CPP_STACKTRACES", "1")
    other = begin(until="beat")
    assert parent(other) != parent(usual)
    assert is_running(usual.process.pid)


def test_one_that_is_stopped_before_it_is_forked_is_ended_at_once(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_SHOW_CPP_STACKTRACES", "0")
    waiting = begin(until="")
    server = waiting.process.pid
    assert psutil.Process(server).ppid() == os.getpid()
    waiting.stop()
    assert waiting.process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(server))


def test_one_whose_server_is_slow_to_import_is_waited_for(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a process may get almost no time, which does not mean that it hangs."""
    monkeypatch.setattr(workers, "SILENT_SECONDS", 0.0)
    monkeypatch.setenv("TORCH_SHOW_CPP_STACKTRACES", "0")
    waiting = begin(until="")
    server = psutil.Process(waiting.process.pid)
    server.suspend()
    wait_until(lambda: server.status() == psutil.STATUS_STOPPED)
    for _ in range(3):
        assert waiting.overdue(timeout=1.0, hang=600.0) == ""
    assert waiting.overdue(timeout=None, hang=-1.0) == "hang"
    server.resume()
    wait_until(lambda: psutil.Process(waiting.process.pid).ppid() == server.pid)
    os.kill(waiting.process.pid, signal.SIGTERM)
    assert waiting.process.wait(PATIENCE) == -signal.SIGTERM
    assert waiting.how_it_ended() == "killed by signal 15"


def test_a_server_that_is_killed_costs_a_try(methods: Any, tmp_path: Path) -> None:
    todo = cells("slow", options=["seconds=0.3"], seeds=(1, 2))
    killed: list[int] = []

    def progress(*_: object) -> None:
        if not killed:
            killed.append(parent(engine._workers[0]))
            os.kill(killed[0], signal.SIGKILL)

    with LocalEngine(Store(tmp_path), Settings(threads=1)) as engine:
        records = list(engine.run(todo, progress))
    assert killed
    assert [record.status for record in records] == ["done", "done"]
    assert "retried" in {i["kind"] for record in records for i in record.incidents}


def test_workers_do_not_outlive_a_killed_engine(begin: Begin, tmp_path: Path) -> None:
    code = (
        "import queue, sys\n"
        "from pathlib import Path\n"
        "from fewshot_bench.engines.base import Settings\n"
        "from fewshot_bench.engines.label_process import LabelProcess\n"
        "from fewshot_bench.engines.process import Slot, Worker\n"
        "from fewshot_bench.store.store import Store\n"
        "events = queue.Queue()\n"
        "args = Store(Path(sys.argv[1])), Settings(threads=1)\n"
        "labels = LabelProcess(args[0].path, args[1])\n"
        "worker = Worker.start(Slot('cpu/0', 'cpu'), *args, events, labels)\n"
        "while events.get()[1].event != 'idle': pass\n"
        "print(worker.process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert engine.stdout is not None
    with contextlib.closing(engine.stdout):
        pid = int(engine.stdout.readline())
        server = psutil.Process(pid).ppid()
        engine.kill()
        engine.communicate()
    wait_until(lambda: not is_running(pid) and not is_running(server))
