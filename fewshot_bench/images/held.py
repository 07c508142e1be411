"""Decoded images that a process holds in memory, all sources of images within one bound.

`Held` is the entry; the first images of a source that fit stay, since passes over a source visit
all of its images.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable
from typing import Any
from weakref import WeakSet

MEMORY = 1 << 30
"""Bytes of decoded images that a process holds at most."""
IDLE_SECONDS = 60.0
_LOCK = threading.Lock()
_ALL: WeakSet[Held] = WeakSet()


class Held:
    """Values by key, the first ones that fit beside those of others; for several threads."""

    def __init__(self) -> None:
        self._used = 0
        self._values: dict[Hashable, Any] = {}
        self._asked = time.monotonic()
        with _LOCK:
            _ALL.add(self)

    def get(self, key: Hashable) -> Any:
        """The value of a key; None where there is none."""
        self._asked = time.monotonic()
        return self._values.get(key)

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, if there is room."""
        with _LOCK:
            if key not in self._values and self._makes_room(size):
                self._values[key] = value
                self._used += size

    def _makes_room(self, size: int) -> bool:
        """True when `size` bytes fit, without those that nobody asked for in the last minute."""
        if size > MEMORY:
            return False
        others = sorted((one for one in _ALL if one is not self), key=lambda one: one._asked)
        total = self._used + sum(one._used for one in others) + size
        for one in others:
            if total <= MEMORY or one._asked > self._asked - IDLE_SECONDS:
                break
            total -= one._used
            one._used, one._values = 0, {}
        return total <= MEMORY
