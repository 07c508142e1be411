"""The guard around plug-in code: a snapshot before it, everything put back and named after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from fewshot_bench.api.record import Incidents
from fewshot_bench.runner.isolation.functions import Functions
from fewshot_bench.runner.isolation.leftovers import Children, Descriptors, Threads
from fewshot_bench.runner.isolation.numeric import of_numpy, of_pillow, of_torch
from fewshot_bench.runner.isolation.output import Printed, collected
from fewshot_bench.runner.isolation.settings import Setting, of_python
from fewshot_bench.utils.text import few


@contextmanager
def guarded(who: str, incidents: Incidents, distrust: Callable[[], None]) -> Iterator[Printed]:
    """Collect what is printed inside; afterwards put the process back and name what had changed.

    who: begins every incident (`tip-adapter.fit`). distrust: called when something could not be
    undone, so that nothing else should be computed in this process.

    Kinds of incidents: `functions` (replaced ones), `processes`, `threads`, `descriptors`,
    `settings` (everything that has a value before and after).
    """
    snapshot, report, printed = _Snapshot(), _Report(who, incidents, distrust), None
    try:
        with collected() as printed:
            yield printed
    finally:
        snapshot.undo(report)
        if printed is not None and printed.redirected:
            report("settings", "changed sys.stdout", True)


class _Report:
    def __init__(self, who: str, incidents: Incidents, distrust: Callable[[], None]) -> None:
        self._who = who
        self._incidents = incidents
        self._distrust = distrust

    def __call__(self, kind: str, text: str, undone: bool, how: str = "put back") -> None:
        end = how if undone else "could not be undone: the process is not used again"
        self._incidents.add(kind, f"{self._who} {text}; {end}")
        if not undone:
            self._distrust()


class _Unreadable:
    """The value of a setting that cannot be read; equal to nothing else."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"unreadable ({type(self._error).__name__})"


class _Snapshot:
    def __init__(self) -> None:
        self._settings = [
            (setting, _read(setting))
            for setting in chain(of_python(), of_numpy(), of_pillow(), of_torch())
        ]
        self._functions = Functions()
        self._threads = Threads()
        self._children = Children()
        self._descriptors = Descriptors()

    def undo(self, report: _Report) -> None:
        """Functions first, since all that follows calls them."""
        swapped, complete = self._functions.restore()
        others = self._threads.others() if swapped else []
        if others:
            # Which code did it cannot be told, and it may do so again.
            doubt = f" (or a thread that ran before did: {few(others)})"
            report("functions", f"replaced {few(swapped)}{doubt}", False)
        elif swapped:
            report("functions", f"replaced {few(swapped)}", complete)
        for step in (self._undo_descriptors, self._undo_processes, self._undo_settings):
            try:
                step(report)
            except Exception as error:
                report("settings", f"left what cannot be put back ({error!r})", False)

    def _undo_descriptors(self, report: _Report) -> None:
        changed = self._descriptors.restore()
        if changed:
            report("descriptors", f"closed or changed file descriptors {few(changed)}", False)

    def _undo_processes(self, report: _Report) -> None:
        ended, complete = self._children.end()
        if ended:
            report("processes", f"left child processes {few(ended)}", complete, "ended")
        left = self._threads.left()
        if left:
            report("threads", f"left threads {few(left)}", False)

    def _undo_settings(self, report: _Report) -> None:
        for setting, before in self._settings:
            after = _read(setting)
            if _same(before, after):
                continue
            undone = _written(setting, before)
            text = f"{setting.verb} {setting.name}{setting.values(before, after)}"
            report("settings", text, undone)


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception as error:
        return _Unreadable(error)


def _written(setting: Setting, before: Any) -> bool:
    if setting.write is None or isinstance(before, _Unreadable):
        return False
    try:
        setting.write(before)
    except Exception:
        return False
    return _same(before, _read(setting))


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, _Unreadable) and isinstance(after, _Unreadable):
        return True
    try:
        return bool(before == after)
    except Exception:
        return before is after
