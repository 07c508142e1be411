"""Inter-process locks, which end with their process, and with it however it ends.

`exclusive` holds a named lock of a folder; `once` holds one keyed by cache entry, so that two
processes never compute the same entry. While a lock of `once` is held no other one is taken but
those under which nobody waits for a lock of `once`.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from fewshot_bench.utils import cache_dir

# Entries of one folder share this many lock files, which stay there.
FILES = 256
FOLDER = ".locks"
_waiting = 0


@contextmanager
def exclusive(folder: Path, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock `key` of a folder; OSError where files cannot be locked.

    waiting: called once when another process holds it.
    """
    lock = filelock.FileLock(folder / f".{key}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            _wait(lock)
    except NotImplementedError as error:
        raise OSError(errno.ENOTSUP, str(error)) from error
    try:
        yield
    finally:
        lock.release()


def _wait(lock: filelock.BaseFileLock) -> None:
    global _waiting
    _waiting += 1
    try:
        lock.acquire()
    finally:
        _waiting -= 1


@contextmanager
def once(folder: Path | None, entry: str) -> Iterator[None]:
    """Wait until no other process that shares the cache `folder` computes the same entry.

    Where files cannot be locked nobody waits, and work may be done twice; results are the same.
    """
    with ExitStack() as stack:
        if folder is not None:
            number = int.from_bytes(hashlib.sha256(entry.encode()).digest()[:8], "big") % FILES
            with suppress(OSError):
                cache_dir.make_folder(folder / FOLDER)
                stack.enter_context(exclusive(folder / FOLDER, f"{number:02x}"))
        yield


def is_waiting() -> bool:
    """True when this process is waiting for another one to give back a lock."""
    return _waiting > 0
