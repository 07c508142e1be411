"""Decoded images that a process holds in memory, within one bound for all of its sources."""

from __future__ import annotations

import threading
import time
from typing import Any
from weakref import WeakSet

from fewshot_bench.utils.memory import count_workers, free_host_memory

LEAST = 1 << 30
"""Bytes of decoded images that every process may hold."""
SHARE = 0.5
"""The part of the machine's free memory that decoded images of all its workers may take."""
IDLE_SECONDS = 60.0
_LOCK = threading.Lock()
_ALL: WeakSet[DecodeCache] = WeakSet()


class DecodeCache:
    """Decoded images in memory by number, within one bound for all sources of a process.

    The bound is this process's share of `SHARE` of the memory that is free, counted anew whenever
    another `LEAST` bytes are held, and never below `LEAST`. The first images of a source that fit
    stay, since passes over a source visit all of its images. Sources that were not asked for
    `IDLE_SECONDS` make room. Safe for threads.
    """

    # At least the bytes of all instances: those of instances that are gone count until the bound is
    # reached, so that an image does not cost a look at every instance.
    held = 0
    # The bound, and the bytes from which on it is counted anew.
    bound = 0
    valid = 0

    def __init__(self) -> None:
        self._used = 0
        self._values: dict[int, Any] = {}
        self._asked = time.monotonic()
        with _LOCK:
            _ALL.add(self)

    def get(self, key: int) -> Any:
        """The value of a key; None if it is not held."""
        self._asked = time.monotonic()
        return self._values.get(key)

    def put(self, key: int, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, if there is room."""
        with _LOCK:
            if key in self._values:
                return
            bound = _count_bound(size)
            if DecodeCache.held + size > bound >= size:
                DecodeCache.held = self._evict(bound - size)
            if DecodeCache.held + size <= bound:
                DecodeCache.held += size
                self._values[key] = value
                self._used += size

    def _evict(self, most: int) -> int:
        """Empty idle instances until at most `most` bytes are held; the bytes held then."""
        total = sum(cache._used for cache in _ALL)
        for cache in sorted(_ALL, key=lambda cache: cache._asked):
            if total <= most or cache._asked > self._asked - IDLE_SECONDS:
                break
            if cache is not self:
                total -= cache._used
                cache._used, cache._values = 0, {}
        return total


def _count_bound(size: int) -> int:
    """The bytes that this process may hold once `size` more are asked for."""
    if DecodeCache.held + size > DecodeCache.valid:
        share = SHARE * (free_host_memory() + DecodeCache.held) / count_workers()
        DecodeCache.bound = max(LEAST, int(share))
        DecodeCache.valid = DecodeCache.held + LEAST
    return DecodeCache.bound
