"""Guard around code of a method: its output is captured, its child processes are ended.

`guard` is the entry point. What else a foreign plug-in leaves behind dies with its process, which
serves that plug-in alone.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Incidents
from fewshot_bench.utils.plugin_code import same_folder
from fewshot_bench.utils.text import few

# Characters of plug-in output kept in a record.
LIMIT = 4000
# Time for child processes to end by themselves, and for killed ones to end.
GRACE_SECONDS = 1.0
KILL_SECONDS = 30.0
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def guard(who: str, incidents: Incidents, *, foreground: bool = False) -> Iterator[Printed]:
    """Capture stdout inside; afterwards end new child processes, and return to the folder.

    who: prefix of the incident about processes, such as `tip-adapter.fit`. foreground: only return
    to the folder: the terminal and the processes are the user's own.
    """
    if foreground:
        with same_folder():
            yield Printed()
        return
    children, process = list_children(), os.getpid()
    try:
        with same_folder(), collect_output() as printed:
            yield printed
    finally:
        if os.getpid() != process:
            # The code inside forked and came back in both processes: only the first one goes on.
            os._exit(1)
        if names := end_children(children):
            incidents.add("processes", f"{who} left child processes {few(names)}; ended")


class Printed(io.RawIOBase):
    """A file that keeps the first bytes written to it and counts the others."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        data = memoryview(data).cast("B")
        self._kept += data[: max(0, 4 * LIMIT - len(self._kept))]
        self._count += len(data)
        return len(data)

    @property
    def text(self) -> str:
        """The first `LIMIT` characters, then the number of bytes left out."""
        text = self._kept.decode("utf-8", "replace")[:LIMIT]
        more = self._count - len(text.encode())
        return f"{text}\n[{more:,} more bytes]" if more > 0 else text


@contextmanager
def collect_output() -> Iterator[Printed]:
    """Capture what Python code prints to stdout inside; only the start of the text is kept."""
    printed = Printed()
    stream = io.TextIOWrapper(
        io.BufferedWriter(printed, 1), "utf-8", "replace", newline="\n", write_through=True
    )
    try:
        with redirect_stdout(stream):
            yield printed
    finally:
        with suppress(Exception):
            # The plug-in may have closed the stream.
            stream.flush()


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
