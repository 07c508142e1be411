"""Identity of this machine, and liveness of its processes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import signal
import socket
import sys
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
_PR_SET_PDEATHSIG = 1


@functools.cache
def this_machine() -> str:
    """The scope of process ids: the host, and on Linux its boot and process namespace.

    Hosts of one name (`localhost`) differ in the boot.
    """
    namespace = boot = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
        boot = BOOT.read_text(encoding="ascii")[:8]
    text = f"{socket.gethostname()[:60]}-{namespace}-{boot}"
    return re.sub(r"[^A-Za-z0-9.-]", "", text)


def interrupt_on_signals() -> None:
    """The first SIGTERM or SIGHUP from now on is KeyboardInterrupt; more disturb no clean-up.

    A SIGHUP that is ignored, as under nohup, stays so. Where it says that the terminal has gone,
    what is still printed goes nowhere.
    """
    numbers = [signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def stop(number: int, frame: object) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        if number == hangup:
            _silence([descriptor for descriptor in terminals if not os.isatty(descriptor)])
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


def _silence(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@functools.cache
def started() -> float:
    """The start of this process: see `_started`."""
    return _started(os.getpid())


def _started(pid: int) -> float:
    """Seconds from the boot on Linux, where clocks may be set anew; elsewhere since 1970."""
    import psutil

    try:
        # Behind the name, which may hold anything, the twentieth value.
        after = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(after[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return float(psutil.Process(pid).create_time())


def is_running(pid: int, started: float = 0.0) -> bool:
    """True when a process of this machine runs, or when that cannot be decided.

    started: when it began, where that is known: a number can be given again. One that ended and
    was not waited for does not run.
    """
    import psutil

    try:
        another = bool(started) and abs(_started(pid) - started) > 1
        return not another and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, OverflowError):
        return True


def die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent; elsewhere a closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have gone before it was asked for.
        if os.getppid() != parent:
            sys.exit(1)
