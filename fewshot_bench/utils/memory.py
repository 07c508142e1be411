"""Free memory for this process (machine, container, job), and control of freed memory."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The numbers of workers on each device and on this machine, set for workers.
SHARING_VARIABLE = "FSBENCH_WORKERS_ON_DEVICE"
WORKERS_VARIABLE = "FSBENCH_WORKERS_ON_MACHINE"
_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Limit and usage files of cgroup version 2, and of version 1.
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
# The page cache counts as used but is reclaimable.
_CACHED = ("inactive_file", "active_file")


def free_host_memory() -> int:
    """Bytes that this process can still use within the machine's memory and its cgroup limits."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _groups():
        for limit, used in _FILES:
            most, now = _read(folder / limit), _read(folder / used)
            if most.isdigit() and now.isdigit():
                free = min(free, max(int(most) - int(now) + _reclaimable(folder), 0))
    return free


def _groups() -> Iterator[Path]:
    """The cgroup folders with memory limits of this process: its own group and all ancestors."""
    seen = set()
    for line in _read(_OWN).splitlines() or ["0::/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root = _MOUNT if number == "0" else _MOUNT / "memory"
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):
            if ".." not in part.parts and root / part not in seen:
                seen.add(root / part)
                yield root / part


def _reclaimable(folder: Path) -> int:
    counts = re.findall(r"^(\w+) (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
    return sum(int(count) for name, count in counts if name in _CACHED)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_CHOSEN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@functools.cache
def keep_freed_memory() -> bool:
    """Make the allocator keep freed memory in this process; False if that is not possible.

    With user settings (`MALLOC_...`, `GLIBC_TUNABLES`) it changes nothing and returns False.
    """
    library = _glibc()
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if library is None or tuned or any(name in os.environ for name in _CHOSEN):
        return False
    return bool(library.mallopt(_MMAP_MAX, 0)) and bool(library.mallopt(_TRIM_THRESHOLD, -1))


def give_back_memory() -> None:
    """Return freed memory to the operating system, so that it does not count in later peaks."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def count_sharers() -> int:
    """The number of workers that this one shares its device with, itself included; 1 elsewhere."""
    return _count(SHARING_VARIABLE)


def count_workers() -> int:
    """The number of workers on this machine, this one included; 1 elsewhere."""
    return _count(WORKERS_VARIABLE)


def _count(variable: str) -> int:
    setting = os.environ.get(variable, "")
    return max(1, int(setting)) if setting.isdecimal() else 1


@functools.cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim")) else None
