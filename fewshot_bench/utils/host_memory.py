"""How much memory this process may still use: of the machine, or of its container or job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Limit, use and statistics of version 2, and of version 1.
_FILES = (
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
)
_STATISTICS = "memory.stat"
# What the page cache holds counts as used and can be given back.
_CACHED = ("inactive_file", "active_file")


def free_host_memory() -> int:
    """Bytes that this process may still use before the machine or a limit on it has no more."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for folder in _groups():
        for limit, used in _FILES:
            most, now = _read(folder / limit), _read(folder / used)
            if most.isdigit() and now.isdigit():
                free = min(free, max(int(most) - int(now) + _reclaimable(folder), 0))
    return free


def _groups() -> Iterator[Path]:
    """The folders of this process's memory limits: its own group, and all above it."""
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
    lines = [line.split() for line in _read(folder / _STATISTICS).splitlines()]
    found = {words[0]: words[1] for words in lines if len(words) == 2 and words[1].isdigit()}
    return sum(int(found.get(name, 0)) for name in _CACHED)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
