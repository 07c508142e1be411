"""Inter-process locks, which are released when their process ends, even if it is killed.

`exclusive` holds a named lock of a folder; `once` holds a lock per cache entry, so that two
processes never compute the same entry. To avoid deadlocks, code that holds a lock of `once` takes
only locks whose holders never wait for a lock of `once`.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock

from fewshot_bench.utils import cache_dir
from fewshot_bench.utils.plugin_code import reset_umask

try:
    import fcntl
except ImportError:
    # Windows, whose file systems all have locks.
    fcntl = None  # type: ignore[assignment]

# Lock files per folder, shared by all its entries; they are never removed.
FILES = 256
FOLDER = ".locks"
_waiting = 0


@contextmanager
def exclusive(folder: Path, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock `key` of a folder; OSError if the file system supports no locks.

    waiting: called once if another process holds the lock.
    """
    path = folder / f".{key}.lock"
    lock = filelock.FileLock(path, mode=_probe(path))
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


@functools.lru_cache(maxsize=1024)
def _probe(path: Path) -> int:
    """Create a lock file and return its mode, by which users of a folder share its locks.

    The mode follows from the umask, and its owner may always use the file. OSError if it cannot be
    locked, as on NFS without a lock service. filelock takes some of these refusals for a lock of
    another process, which it would wait for without end, or replaces locks by files that a killed
    process leaves behind.
    """
    if fcntl is None:
        return 0o666
    reset_umask()
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    found = stat.S_IMODE(path.lstat().st_mode)
    mode = found | stat.S_IRUSR | stat.S_IWUSR
    if mode != found:
        path.chmod(mode)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # Another process holds it; some file systems say so by EACCES.
        pass
    finally:
        os.close(descriptor)
    return mode


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

    If files cannot be locked, nobody waits and work may be done twice with the same results.
    """
    with ExitStack() as stack:
        if folder is not None:
            number = int.from_bytes(hashlib.sha256(entry.encode()).digest()[:8], "big") % FILES
            with suppress(OSError):
                cache_dir.make_folder(folder / FOLDER)
                stack.enter_context(exclusive(folder / FOLDER, f"{number:02x}"))
        yield


def is_waiting() -> bool:
    """True while this process waits for another one to release a lock."""
    return _waiting > 0
