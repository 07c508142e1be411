"""Atomic file writes (`whole`, `write_whole`), and bounded reads of foreign files (`read_regular`).

A written file is complete or absent, never partial.
"""

from __future__ import annotations

import errno
import filecmp
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path

from fewshot_bench.utils.processes import is_running, this_machine
from fewshot_bench.utils.text import size_text

TEMPORARY = ".fsbench-tmp"
STALE_SECONDS = 24 * 3600
# Error numbers of a full disk or quota.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


# The most bytes of a foreign file that is read whole, such as a record or a list of names.
LARGEST = 64 * 2**20
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Damaged(Exception):
    """A damaged file of the store that must not be used; the message is the reason."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes; OSError also for a pipe, a device and the like.

    A pipe would make the reader wait for ever, and some devices never end.
    """
    return os.fdopen(_open(path)[0], "rb")


def read_regular(path: Path | str, most: int = LARGEST) -> bytes:
    """The bytes of a regular file; OSError (EFBIG) for more bytes, or any other file."""
    file, size = _open(path)
    try:
        if size > most:
            reason = f"it has {size_text(size)}, expected at most {size_text(most)}"
            raise OSError(errno.EFBIG, reason, str(path))
        # The end of a file is an empty part.
        return b"".join(iter(partial(os.read, file, size + 1), b""))
    finally:
        os.close(file)


def _open(path: Path | str) -> tuple[int, int]:
    """The descriptor of a regular file, and its size in bytes."""
    file = os.open(path, _READING)
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode):
        return file, status.st_size
    os.close(file)
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def read_regular_text(path: Path, encoding: str = "utf-8-sig", most: int = LARGEST) -> str:
    """The text of a regular file; ValueError for another encoding, errors as `read_regular`."""
    return read_regular(path, most).decode(encoding)


def temporary_name(prefix: str = TEMPORARY) -> str:
    return f"{prefix}~{this_machine()}~{os.getpid()}~{secrets.token_hex(6)}"


def is_stale(path: Path) -> bool:
    """True for a temporary file of an ended process of this machine, or of more than a day ago."""
    try:
        latest = path.stat().st_mtime + STALE_SECONDS
    except OSError:
        return False
    old = time.time() > latest and clock_of(path.parent) > latest
    return old or is_left_behind(path)


def clock_of(folder: Path, prefix: str = TEMPORARY) -> float:
    """Current time by the clock of a folder's file system, as machines may differ by hours.

    That of this machine if the folder cannot be written. prefix: of the name of a file that is
    there meanwhile, and stays if the process is killed.
    """
    probe = folder / temporary_name(prefix)
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def is_left_behind(path: Path) -> bool:
    """True for a name of `temporary_name` by a process of this machine that has ended."""
    _, machine, pid, _ = (path.name.split("~") + ["", "", ""])[:4]
    return machine == this_machine() and pid.isdigit() and not is_running(int(pid))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` at the end, or removed on failure.

    Stale temporary files of killed processes in the folder are removed first.
    """
    for entry in path.parent.glob(f"{TEMPORARY}~*"):
        if is_stale(entry):
            with suppress(OSError):
                entry.unlink()
    temporary = path.with_name(temporary_name())
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file atomically and synced to disk; create its folder. OSError on failure.

    content: the bytes, or an iterable of pieces.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        write_synced(temporary, content)


def write_synced(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a new file synced to disk."""
    with path.open("xb") as file:
        file.writelines([content] if isinstance(content, bytes) else content)
        file.flush()
        os.fsync(file.fileno())


def publish(target: Path, temporary: Sequence[Path]) -> None:
    """Rename the logits, then the record, so that a record never has another result's logits.

    temporary: files of the record and, if any, the logits. The old record is removed first only if
    the new logits differ; a kill just then leaves the cell to be recomputed.
    """
    archive = target.with_suffix(".npz")
    if len(temporary) == 2:
        if not same_content(temporary[1], archive):
            target.unlink(missing_ok=True)
        os.replace(temporary[1], archive)
    os.replace(temporary[0], target)
    if len(temporary) == 1:
        archive.unlink(missing_ok=True)
    _sync_folder(target.parent)


def same_content(first: Path, second: Path) -> bool:
    """True when two files have the same bytes; False when one is not there."""
    with suppress(FileNotFoundError):
        return filecmp.cmp(first, second, shallow=False)
    return False


def make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems, such as shared folders of virtual machines, sync files alone.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def list_entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(folder.iterdir())
    return []


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of `path`, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
