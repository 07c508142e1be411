"""The end of a run: plug-ins are still being told of the last records."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from fewshot_bench.engines.workers import Event, Worker

# Seconds that hooks get after the last record; results are stored by then.
HOOK_SECONDS = 60.0


def let_hooks_end(
    workers: Sequence[Worker],
    events: queue.Queue[Event],
    handle: Callable[[Worker, dict[str, Any] | None], None],
) -> None:
    """Wait until each worker says that it is idle, or has ended; not longer than `HOOK_SECONDS`."""
    end = time.monotonic() + HOOK_SECONDS
    while any(one.ready and not one.idle and not one.cells for one in workers):
        try:
            handle(*events.get(timeout=max(0.0, end - time.monotonic())))
        except queue.Empty:
            return
