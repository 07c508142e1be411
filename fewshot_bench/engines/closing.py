"""The end of a run: plug-ins are still being told of the last records."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fewshot_bench.engines.process import Event, Worker

# Seconds that hooks get after the last record; results are stored by then.
HOOK_SECONDS = 60.0
TICK_SECONDS = 0.2


def let_hooks_end(
    workers: Sequence[Worker],
    events: queue.Queue[Event],
    handle: Callable[[Worker, dict[str, Any] | None], None],
) -> None:
    """Wait until each worker says that it is idle, or has ended; not longer than `HOOK_SECONDS`."""
    end = time.monotonic() + HOOK_SECONDS
    while time.monotonic() < end and any(map(_is_telling, workers)):
        with suppress(queue.Empty):
            handle(*events.get(timeout=TICK_SECONDS))


def _is_telling(worker: Worker) -> bool:
    """True while it has stored all its cells and is not back yet; one that ended is not awaited."""
    back = worker.idle or bool(worker.cells) or not worker.ready
    return not back and worker.process.poll() is None
