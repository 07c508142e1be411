"""One process at a time for one piece of shared work, so that it is done once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from fewshot_bench.utils import cache_dir as cache_folder

NAME = ".turns"
_waiting = False


@contextmanager
def alone(folder: Path | None, what: str) -> Iterator[None]:
    """Wait until no other process that shares `folder` is inside with the same `what`.

    A lock ends with its process. Where files cannot be locked nobody waits, and work may be done
    twice; results are the same.
    """
    with ExitStack() as stack:
        if folder is not None:
            with suppress(OSError, ImportError):
                _lock(stack, folder, what)
        yield


def _lock(stack: ExitStack, folder: Path, what: str) -> None:
    """A byte of one file stands for each piece of work."""
    import fcntl

    cache_folder.make_folder(folder)
    file = stack.enter_context((folder / NAME).open("ab"))
    place = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "little") >> 1
    global _waiting
    _waiting = True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, place)
    finally:
        _waiting = False


def waiting() -> bool:
    """Whether this process is waiting for another one."""
    return _waiting
