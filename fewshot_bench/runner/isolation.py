"""Guard around code of a method: its output is collected, its child processes are ended.

`guard` is the entry point. What else a foreign plug-in leaves behind dies with its process, which
serves that plug-in alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Incidents
from fewshot_bench.runner.cell_log import HIDDEN, CellLog, collect, lose_output
from fewshot_bench.utils.plugin_code import same_state
from fewshot_bench.utils.text import few
from fewshot_bench.utils.withheld import withheld

# Time for child processes to end by themselves, and for killed ones to end.
GRACE_SECONDS = 1.0
KILL_SECONDS = 30.0
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def guard(who: str, incidents: Incidents, log: CellLog | None = None) -> Iterator[None]:
    """Collect output and withhold labels inside; afterwards end new child processes.

    The working directory and the umask are then those of before.

    who: prefix of the incident about processes, such as `tip-adapter.fit`. log: of the cell; None
    to lose what is printed. In the foreground, child processes are the user's own.
    """
    if log is not None and log.place != HIDDEN:
        with same_state(), collect(log), withheld():
            yield
        return
    children, process = list_children(), os.getpid()
    try:
        with same_state(), lose_output() if log is None else collect(log), withheld():
            yield
    finally:
        if os.getpid() != process:
            # The code inside forked and came back in both processes: only the first one goes on.
            os._exit(1)
        if names := end_children(children):
            incidents.add("processes", f"{who} left child processes {few(names)}; ended")


def end_children(before: set[int]) -> list[str]:
    """End all child processes but those of `before`, and their descendants; returns names."""
    if list_children() <= before:
        return []
    import psutil

    names: list[str] = []
    psutil.wait_procs(_processes(list_children() - before), timeout=GRACE_SECONDS)
    # On Linux, grandchildren become ours when their parent has ended.
    while left := _processes(list_children() - before):
        for process in left:
            with suppress(psutil.Error):
                names.append(f"{process.name()} (pid {process.pid})")
        for process in left:
            with suppress(psutil.Error):
                left += process.children(recursive=True)
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        _, alive = psutil.wait_procs(left, timeout=KILL_SECONDS)
        if alive:
            break
    return names


def _processes(pids: set[int]) -> list[Any]:
    """The processes with these ids that run, without helpers of Python and joblib."""
    import psutil

    modules = (
        "multiprocessing.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
    )
    trackers = (getattr(sys.modules.get(name), "_resource_tracker", None) for name in modules)
    helpers = {getattr(tracker, "_pid", None) for tracker in trackers}
    running = []
    for pid in pids - helpers:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def list_children() -> set[int]:
    """Ids of the child processes; from now on, orphaned grandchildren are among them (Linux)."""
    _become_subreaper()
    if Path("/proc/thread-self/children").exists():
        pids: set[int] = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                text = Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii")
                pids.update(map(int, text.split()))
        return pids
    import psutil

    return {process.pid for process in psutil.Process().children()}


@functools.cache
def _become_subreaper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)
