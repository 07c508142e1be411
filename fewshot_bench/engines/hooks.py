"""Hooks of plug-ins around cells, called beside the run: `HookCalls`.

A slow hook holds up no cell, and a failing one costs no result: it is warned of once.
"""

from __future__ import annotations

import queue
import sys
import threading
from contextlib import suppress
from functools import partial
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.errors import PluginError
from fewshot_bench.utils.text import printable

STARTED, FINISHED = "run_started", "run_finished"


class HookCalls:
    """Calls `run_started` and `run_finished` in the order of events, in a thread of its own."""

    def __init__(self) -> None:
        self._registry = registry()
        self._calls: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._shown: set[tuple[str, str]] = set()
        # The hook that runs now, and its plug-in.
        self._inside = ("", "")
        self._thread: threading.Thread | None = None
        self._stopped = False

    def started(self, spec: RunSpec) -> None:
        """A cell begins."""
        self._add(STARTED, spec=spec)

    def finished(self, record: Record) -> None:
        """A cell has a record in the store."""
        self._add(FINISHED, record=record)

    def _add(self, hook: str, **arguments: Any) -> None:
        if not self._registry.has_hook(hook):
            return
        self._calls.put((hook, arguments))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fsbench-hooks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            hook, arguments = self._calls.get()
            # Nothing that a hook raises may end this thread.
            with suppress(BaseException):
                self._registry.call(
                    hook, partial(self._failed, hook), partial(self._enter, hook), **arguments
                )
            self._inside = ("", "")
            self._calls.task_done()

    def _enter(self, hook: str, plugin: str) -> None:
        self._inside = hook, plugin

    def _failed(self, hook: str, plugin: str, failure: PluginError) -> None:
        if (plugin, hook) not in self._shown and not self._stopped:
            self._shown.add((plugin, hook))
            _warn(str(failure))

    def wait(self, seconds: float) -> None:
        """Wait until all hooks were called, at most this long."""
        with self._calls.all_tasks_done:
            self._calls.all_tasks_done.wait_for(lambda: not self._calls.unfinished_tasks, seconds)
        if self._calls.unfinished_tasks:
            self._end("did not come back")

    def stop(self) -> None:
        """End the hook that runs, if any: the calls that are left are lost."""
        if self._calls.unfinished_tasks and not self._stopped:
            self._end("was stopped")

    def _end(self, how: str) -> None:
        self._stopped = True
        hook, plugin = self._inside
        if plugin in self._registry.hosts:
            self._registry.hosts[plugin].kill()
        if plugin:
            _warn(f"{hook} of plug-in {plugin} {how}: its last reports are lost")


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)
