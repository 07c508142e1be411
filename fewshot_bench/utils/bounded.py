"""Values that are kept in memory as long as there is room for them."""

from __future__ import annotations

import threading
from typing import Any


class Bounded:
    """Values by key, the first ones that fit into `limit` bytes; for several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._values: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> Any:
        """The value of a key; None where there is none."""
        return self._values.get(key)

    def put(self, key: Any, value: Any, size: int) -> None:
        """Keep a value of `size` bytes, if there is room."""
        with self._lock:
            if key not in self._values and self._used + size <= self._limit:
                self._values[key] = value
                self._used += size
