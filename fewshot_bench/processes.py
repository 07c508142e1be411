"""Which machine this is, and whether a process of it still runs."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def this_machine() -> str:
    """Where process ids have a meaning: the host, and on Linux its boot and process namespace.

    Hosts of one name (`localhost`) differ in the boot.
    """
    namespace = boot = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
        boot = BOOT.read_text(encoding="ascii")[:8]
    text = f"{socket.gethostname()[:60]}-{namespace}-{boot}"
    return re.sub(r"[^A-Za-z0-9.-]", "", text)


@functools.cache
def started() -> float:
    """When this process began, in seconds since 1970."""
    import psutil

    return float(psutil.Process().create_time())


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
