"""Decoded images that a process holds in memory, with one bound for all sources of images.

`DecodeCache` is the entry point; the first images of a source that fit stay, since passes over a
source visit all of its images.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any
from weakref import WeakSet

MEMORY = 1 << 30
"""Maximum bytes of decoded images held by a process."""
IDLE_SECONDS = 60.0
_LOCK = threading.Lock()
_ALL: WeakSet[DecodeCache] = WeakSet()
# At least the bytes that all instances hold: those of instances that are gone count until the bound
# is reached, so that an image does not cost a look at every instance.
_most = 0


class DecodeCache:
    """Values by key, the first that fit beside those of other instances; safe for threads."""

    def __init__(self) -> None:
        self._used = 0
        self._values: dict[Hashable, Any] = {}
        self._asked = time.monotonic()
        with _LOCK:
            _ALL.add(self)

    def get(self, key: Hashable) -> Any:
        """The value of a key; None if it is not held."""
        self._asked = time.monotonic()
        return self._values.get(key)

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, if there is room."""
        with _LOCK:
            if key not in self._values and self._makes_room(size):
                self._values[key] = value
                self._used += size

    def _makes_room(self, size: int) -> bool:
        """True if `size` bytes fit, after evicting instances unused for IDLE_SECONDS if needed."""
        global _most
        if _most + size <= MEMORY:
            _most += size
            return True
        if size > MEMORY:
            return False
        others = sorted(
            (cache for cache in _ALL if cache is not self), key=lambda cache: cache._asked
        )
        total = self._used + sum(cache._used for cache in others) + size
        for cache in others:
            if total <= MEMORY or cache._asked > self._asked - IDLE_SECONDS:
                break
            total -= cache._used
            cache._used, cache._values = 0, {}
        _most = total if total <= MEMORY else total - size
        return total <= MEMORY
