"""Identity of this machine, and liveness, signals and output of its processes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import math
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from fewshot_bench.utils.text import printable_lines

BOOT = Path("/proc/sys/kernel/random/boot_id")
_PR_SET_PDEATHSIG = 1


@functools.cache
def this_machine() -> str:
    """The scope of process ids: the host, and on Linux its boot and pid namespace.

    The boot id distinguishes hosts with equal names (`localhost`).
    """
    namespace = boot = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
        boot = BOOT.read_text(encoding="ascii")[:8]
    text = f"{socket.gethostname()[:60]}-{namespace}-{boot}"
    return re.sub(r"[^A-Za-z0-9.-]", "", text)


@contextlib.contextmanager
def forward(heard: Callable[[str], object]) -> Iterator[tuple[int, threading.Thread]]:
    """Yield a descriptor for a process to start inside, and the thread that reads it afterwards.

    heard: gets each line that is written, in which no character controls a terminal.
    """

    def read() -> None:
        with os.fdopen(reading, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(OSError, ValueError):
                    heard(printable_lines(line))

    (reading, writing), thread = os.pipe(), threading.Thread(target=read, daemon=True)
    try:
        yield writing, thread
    finally:
        os.close(writing)
        thread.start()


def show(text: str) -> None:
    """Write to stderr."""
    sys.stderr.write(text)
    sys.stderr.flush()


def interrupt_on_signals() -> None:
    """Turn the first SIGTERM or SIGHUP into KeyboardInterrupt; ignore later ones during clean-up.

    An ignored SIGHUP, as under nohup, stays ignored. If SIGHUP means that the terminal is gone,
    further output is discarded.
    """
    numbers = [signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def stop(number: int, frame: object) -> None:
        for signal_number in numbers:
            signal.signal(signal_number, signal.SIG_IGN)
        if number == hangup:
            _silence([descriptor for descriptor in terminals if not os.isatty(descriptor)])
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt inside after some seconds; yields a function that tells whether.

    It never does outside the main thread, and on systems without such a timer.
    """
    passed: list[int] = []

    def ring(number: int, frame: object) -> None:
        passed.append(number)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or math.isinf(seconds) or not hasattr(signal, "setitimer"):
        yield lambda: False
        return
    earlier = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield lambda: bool(passed)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, earlier)


def _silence(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@functools.cache
def started() -> float:
    """Start time of this process; see `_read_start_time`."""
    return _read_start_time(os.getpid())


def _read_start_time(pid: int) -> float:
    """Start time in seconds: since boot on Linux, as clocks may be reset; elsewhere since 1970."""
    import psutil

    try:
        # starttime, field 22: parse after the last ")" since the command name may contain spaces.
        after = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(after[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return float(psutil.Process(pid).create_time())


def is_running(pid: int, started: float = 0.0) -> bool:
    """True if a process of this machine is running, or if that cannot be determined.

    started: its start time if known, as in `started()`, because process ids are reused. Zombies do
    not count as running.
    """
    import psutil

    try:
        another = bool(started) and abs(_read_start_time(pid) - started) > 1
        return not another and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, OverflowError):
        return True


def die_with(parent: int) -> None:
    """Make Linux kill this process when its parent ends; elsewhere a closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent may have ended before prctl took effect.
        if os.getppid() != parent:
            sys.exit(1)


def is_at_limit(error: BaseException) -> bool:
    """True for an error at a limit of the machine on open files, processes or threads."""
    if isinstance(error, OSError):
        return error.errno in (errno.EAGAIN, errno.EMFILE, errno.ENFILE)
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)
