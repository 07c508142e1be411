"""Which machine this is, and whether a process of it still runs."""

from __future__ import annotations

import os
import re
import socket


def this_machine() -> str:
    """Where process ids have a meaning: the host and, on Linux, the namespace of its processes."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return re.sub(r"[^A-Za-z0-9.-]", "", f"{socket.gethostname()[:60]}-{namespace}")


def is_running(pid: int, started: float = 0.0) -> bool:
    """Whether a process of this machine runs; True when that cannot be told.

    started: when it began (since 1970), where that is known: a number can be given again. One that
    ended and was not waited for does not run.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        another = bool(started) and abs(process.create_time() - started) > 1
        return not another and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, OverflowError):
        return True
