"""Threads, child processes and file descriptors that a plug-in left behind or closed.

`Threads`, `Children` and `Descriptors` are snapshots, created before plug-in code runs and compared
after it.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewshot_bench.utils.prefetch import own_threads

# Time for leftovers to end by themselves, and for killed child processes to end.
GRACE_SECONDS = 1.0
KILL_SECONDS = 30.0
_ROUNDS = 5
_PR_SET_CHILD_SUBREAPER = 36


class Threads:
    """Threads that run before plug-in code, including those not started by `threading`."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())
        self._unlisted = _unlisted()

    def left(self) -> list[str]:
        """Names of new threads still running after `GRACE_SECONDS`; nothing can end them."""
        # A foreign thread appears in threading.enumerate() once it calls current_thread().
        new = [t for t in threading.enumerate() if t not in self._before and not _lasting(t)]
        new = [thread for thread in new if thread.ident not in self._unlisted]
        end = time.monotonic() + GRACE_SECONDS
        for thread in new:
            with suppress(RuntimeError):
                # A foreign thread that only calls into Python cannot be joined.
                thread.join(max(0.0, end - time.monotonic()))
        while _unlisted() - self._unlisted and time.monotonic() < end:
            time.sleep(GRACE_SECONDS / 20)
        names = [thread.name for thread in new if thread.is_alive()]
        return names + [f"number {ident}" for ident in sorted(_unlisted() - self._unlisted)]


def _lasting(thread: threading.Thread) -> bool:
    """True for threads meant to live as long as the process: ours, tqdm's and fsspec's."""
    fsspec = getattr(sys.modules.get("fsspec.asyn"), "iothread", None)
    known = thread in own_threads() or thread in (fsspec or ())
    return known or type(thread).__module__.startswith("tqdm.")


def _unlisted() -> set[int]:
    """Identifiers of threads that run Python code and are unknown to `threading`."""
    return set(sys._current_frames()) - {thread.ident or 0 for thread in threading.enumerate()}


class Children:
    """Child processes before plug-in code runs; on Linux, orphaned grandchildren become ours."""

    def __init__(self) -> None:
        _become_subreaper()
        self._before = _children()

    def end(self) -> tuple[list[str], bool]:
        """End new child processes and their descendants. Returns names, and True if all ended."""
        import psutil

        found: list[str] = []
        if not self._left():
            return found, True
        psutil.wait_procs(self._left(), timeout=GRACE_SECONDS)
        for _ in range(_ROUNDS):
            left = self._left()
            if not left:
                return found, True
            found += [_title(process) for process in left]
            family = list(left)
            for process in left:
                with suppress(psutil.Error):
                    family += process.children(recursive=True)
            for process in family:
                with suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(family, timeout=KILL_SECONDS)
        return found, not self._left()

    def _left(self) -> list[Any]:
        import psutil

        found = []
        for pid in _children() - self._before - _helpers():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def _title(process: Any) -> str:
    import psutil

    try:
        return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        return f"pid {process.pid}"


def _children() -> set[int]:
    if Path("/proc/thread-self/children").exists():
        found: set[int] = set()
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError):
                text = Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii")
                found.update(int(pid) for pid in text.split())
        return found
    import psutil

    return {process.pid for process in psutil.Process().children()}


def _helpers() -> set[int]:
    """Process ids of the resource trackers of Python and joblib, which clean up after us."""
    names = (
        "multiprocessing.resource_tracker",
        "joblib.externals.loky.backend.resource_tracker",
    )
    trackers = (getattr(sys.modules.get(name), "_resource_tracker", None) for name in names)
    return {pid for pid in (getattr(tracker, "_pid", None) for tracker in trackers) if pid}


@functools.cache
def _become_subreaper() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0)


Identity = tuple[int, int] | None


class Descriptors:
    """The standard streams and open pipes, each with a duplicate to restore it from."""

    def __init__(self) -> None:
        # List before duplicating: duplicates of pipes are pipes as well.
        found = _open_pipes()
        if not _settled.issuperset(found.values()):
            # Garbage may hold a pipe open; if it were collected while plug-in code runs, the
            # plug-in would seem to have closed the pipe.
            gc.collect()
            found = _open_pipes()
            _settled.clear()
            _settled.update(found.values())
        self._kept = {number: (identity, os.dup(number)) for number, identity in found.items()}

    def restore(self) -> list[str]:
        """Restore closed or replaced descriptors where possible; returns their numbers."""
        changed = []
        for number, (identity, duplicate) in self._kept.items():
            intact = _identity(duplicate) == identity
            if _identity(number) != identity:
                changed.append(str(number))
                if intact:
                    os.dup2(duplicate, number, inheritable=number < 3)
            if intact:
                os.close(duplicate)
        return changed


# Pipes that were open after the last garbage collection.
_settled: set[Identity] = set()


def _open_pipes() -> dict[int, Identity]:
    """The standard streams and every open pipe, by number."""
    found = {number: _identity(number) for number in list(_to_keep())}
    return {number: identity for number, identity in found.items() if identity}


def _to_keep() -> Iterator[int]:
    yield from range(3)
    folder = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
    with suppress(OSError):
        for number in map(int, os.listdir(folder)):
            with suppress(OSError):
                if number > 2 and stat.S_ISFIFO(os.fstat(number).st_mode):
                    yield number


def _identity(number: int) -> Identity:
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
