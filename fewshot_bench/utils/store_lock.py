"""One process at a time may change results of a store that are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from fewshot_bench.utils.errors import StoreError

NAME = ".records.lock"


@contextmanager
def alone(store: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a store's lock, which ends with its process; StoreError where files cannot be locked.

    waiting: called once when another process holds it. Runs take no lock: they write cells whole.
    """
    lock = filelock.FileLock(store / NAME)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise StoreError(
            f"cannot lock '{store / NAME}': {error}; make the store writable, or copy it to a disk "
            "of this machine"
        ) from None
    try:
        yield
    finally:
        lock.release()
