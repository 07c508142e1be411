"""One `prepare` at a time on one folder, also after one was killed."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.processes import is_running, started, this_machine

LOCK_NAME = ".lock"
POLL_SECONDS = 0.2
# A lock file is written right after it is made; one that stays unreadable was left by a crash.
UNREADABLE_SECONDS = 10


@contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder; wait for another process of this machine that holds it.

    A lock whose process is gone is taken over. A lock of another machine cannot be judged from
    here: DataMissingError names it.
    """
    lock, mine = folder / LOCK_NAME, _mine()
    told = False
    while not _create(lock, mine):
        holder = _read(lock)
        if _is_stale(lock, holder):
            _take_away(lock, holder)
            continue
        if holder is not None and holder["machine"] != mine["machine"]:
            raise DataMissingError(
                f"another fsbench data prepare works on {folder.parent} (process {holder['pid']} "
                f"on {holder['machine']}): wait until it ends, or delete {lock} if it was killed"
            )
        if not told and holder is not None:
            say(f"waiting for another fsbench data prepare (process {holder['pid']}) to end")
            told = True
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        if _read(lock) == mine:
            lock.unlink(missing_ok=True)


def _mine() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "pid": pid,
        "machine": this_machine(),
        "started": started(),
        "token": secrets.token_hex(8),
    }


def _create(lock: Path, mine: dict[str, Any]) -> bool:
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock.open("x", encoding="utf-8") as file:
            file.write(json.dumps(mine))
    except (FileExistsError, FileNotFoundError):
        # Not found: the process that just ended removed the empty folder.
        return False
    return True


def _read(lock: Path) -> dict[str, Any] | None:
    """What the lock says; None when it is gone or unreadable."""
    try:
        content = json.loads(lock.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"pid": int, "machine": str, "started": float, "token": str}
    sound = isinstance(content, dict) and all(
        isinstance(content.get(name), kind) for name, kind in kinds.items()
    )
    return content if sound else None


def _is_stale(lock: Path, holder: dict[str, Any] | None) -> bool:
    if holder is None:
        with suppress(OSError):
            return time.time() - lock.stat().st_mtime > UNREADABLE_SECONDS
        return False
    here = bool(holder["machine"] == this_machine())
    return here and not is_running(holder["pid"], holder["started"])


def _take_away(lock: Path, seen: dict[str, Any] | None) -> None:
    """Remove a stale lock, and no newer one that another process put there meanwhile."""
    aside = lock.with_name(f"{lock.name}.{secrets.token_hex(8)}")
    with suppress(FileNotFoundError):
        lock.rename(aside)
        if _read(aside) != seen:
            with suppress(OSError):
                os.link(aside, lock)
        aside.unlink()
