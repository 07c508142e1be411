"""The guard around plug-in code: what it left changed is found, named, and ended or put back.

`guarded` is the way in. Whatever cannot be put back by one plain call makes the process untrusted:
its record is kept, and the next cell is computed by a fresh process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fewshot_bench.api.record import Incidents
from fewshot_bench.runner.isolation.functions import Functions
from fewshot_bench.runner.isolation.output import Printed, collected
from fewshot_bench.runner.isolation.processes import Children, Descriptors, Threads
from fewshot_bench.runner.isolation.settings import Setting, of_process
from fewshot_bench.utils.text import few


@contextmanager
def guarded(who: str, incidents: Incidents, distrust: Callable[[], None]) -> Iterator[Printed]:
    """Collect what is printed inside; afterwards name what had changed in this process.

    who: begins every incident (`tip-adapter.fit`). distrust: called when something is left that
    was not put back, so that nothing else should be computed in this process.

    Kinds of incidents: `functions` (replaced ones), `processes`, `threads`, `descriptors`,
    `settings` (everything that has a value before and after).
    """

    def report(kind: str, text: str, undone: bool, how: str = "put back") -> None:
        end = how if undone else "could not be undone: the process is not used again"
        incidents.add(kind, f"{who} {text}; {end}")
        if not undone:
            distrust()

    snapshot, printed = _Snapshot(), None
    try:
        with collected() as printed:
            yield printed
    finally:
        snapshot.compare(report)
        if printed is not None and printed.redirected:
            report("settings", "changed sys.stdout", True)


class _Snapshot:
    def __init__(self) -> None:
        self._settings = [(setting, _read(setting.read)) for setting in of_process()]
        self._functions = Functions()
        self._threads = Threads()
        self._children = Children()
        self._descriptors = Descriptors()

    def compare(self, report: Callable[..., None]) -> None:
        """Functions first, since all that follows calls them."""
        swapped, complete = self._functions.restore()
        if swapped:
            report("functions", f"replaced {few(swapped)}", complete)
        for step in (self._compare_processes, self._compare_settings):
            try:
                step(report)
            except Exception as error:
                report("settings", f"left what cannot be put back ({error!r})", False)

    def _compare_processes(self, report: Callable[..., None]) -> None:
        changed = self._descriptors.restore()
        if changed:
            report("descriptors", f"closed or changed file descriptors {few(changed)}", False)
        ended, complete = self._children.end()
        if ended:
            report("processes", f"left child processes {few(ended)}", complete, "ended")
        left = self._threads.left()
        if left:
            report("threads", f"left threads {few(left)}", False)

    def _compare_settings(self, report: Callable[..., None]) -> None:
        for setting, before in self._settings:
            after = _read(setting.read)
            if not _same(before, after):
                text = f"{setting.verb} {setting.name}{setting.values(before, after)}"
                report("settings", text, _put_back(setting, before))


class _Unreadable:
    """The value of a setting that cannot be read; all of them are equal."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"unreadable ({type(self._error).__name__})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unreadable)

    __hash__ = None  # type: ignore[assignment]


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:
        return _Unreadable(error)


def _put_back(setting: Setting, before: Any) -> bool:
    if setting.write is None:
        return False
    try:
        setting.write(before)
    except Exception:
        return False
    return _same(before, _read(setting.read))


def _same(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except Exception:
        return before is after
