"""Hooks of plug-ins around cells, called beside the run: `HookCalls`.

A slow hook holds up no cell, and a failing one costs no result: it is warned of once.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewshot_bench.api.plugin_host import PluginHost
from fewshot_bench.api.plugins import is_own
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.engines.base import STORE
from fewshot_bench.utils.text import printable


class HookCalls:
    """Calls `run_started` and `run_finished` in the order of events, beside the run.

    The hooks run in the processes of their plug-ins: of foreign ones, and of built-in ones that
    gave variables (`worker_environment`), such as the trackers that are on.
    """

    def __init__(self, store: Path, variables: Mapping[str, Mapping[str, str]]) -> None:
        """store: the folder of results. variables: `Settings.variables`."""
        self._hosts = dict(registry().hosts)
        self._variables = {
            plugin: {**given, STORE: str(store)}
            for plugin, given in variables.items()
            if is_own(plugin) and given
        }
        self._own: list[PluginHost] = []
        self._calls: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        # The hook that runs now, and its plug-in.
        self._inside = ("", "")
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self, spec: RunSpec) -> None:
        """A cell begins."""
        self._add("run_started", spec=spec)

    def finish(self, record: Record) -> None:
        """A cell has a record in the store."""
        self._add("run_finished", record=record)

    def _add(self, hook: str, **arguments: Any) -> None:
        if not (self._variables or any(hook in host.hooks for host in self._hosts.values())):
            return
        self._calls.put((hook, arguments))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fsbench-hooks", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        for plugin, given in self._variables.items():
            host = self._hosts[plugin] = PluginHost(f"plug-in {plugin}", plugin)
            self._own.append(host)
            host.describe()
            host.set_variables(given)
        shown: set[tuple[str, str]] = set()
        while not self._stopped:
            hook, arguments = self._calls.get()
            for plugin, host in self._hosts.items():
                if hook in host.hooks:
                    self._inside = hook, plugin
                    try:
                        host.call(hook, arguments)
                    except Exception as error:
                        if self._inside not in shown and not self._stopped:
                            shown.add(self._inside)
                            _warn(str(error))
            self._inside = ("", "")
            self._calls.task_done()

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
        for host in self._own:
            host.close()

    def _end(self, how: str) -> None:
        self._stopped = True
        hook, plugin = self._inside
        if plugin:
            self._hosts[plugin].kill()
            _warn(f"{hook} of plug-in {plugin} {how}: its last reports are lost")


def _warn(text: str) -> None:
    print(printable(f"warning: {text}"), file=sys.stderr)
