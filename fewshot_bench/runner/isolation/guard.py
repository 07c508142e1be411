"""Guard around plug-in code that detects, reports and undoes the changes it leaves.

`guarded` is the entry point. A change that one plain call cannot undo makes the process untrusted:
the record is kept, and a fresh process computes the next cell.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from fewshot_bench.api.record import FUNCTIONS, THREADS, Incidents
from fewshot_bench.runner.isolation.functions import Functions
from fewshot_bench.runner.isolation.processes import Children, Descriptors, Threads
from fewshot_bench.runner.isolation.settings import Settings
from fewshot_bench.utils.text import few

# Characters of plug-in output kept in a record.
LIMIT = 4000


@contextmanager
def guarded(who: str, incidents: Incidents, mark_tainted: Callable[[], None]) -> Iterator[Printed]:
    """Capture stdout inside; afterwards report what changed in this process.

    who: prefix of every incident (`tip-adapter.fit`). mark_tainted: called if a change could not be
    undone, so that nothing else should be computed in this process.

    Kinds of incidents: `functions` (replaced), `processes`, `threads`, `descriptors`, `settings`
    (all state with a value before and after).
    """

    def report(kind: str, text: str, undone: bool, how: str = "put back") -> None:
        end = how if undone else "could not be undone: the process is not used again"
        incidents.add(kind, f"{who} {text}; {end}")
        if not undone:
            mark_tainted()

    snapshot, printed, process = _Snapshot(), None, os.getpid()
    try:
        with collected() as printed:
            yield printed
    finally:
        if os.getpid() != process:
            # The code inside forked and came back in both processes: only the first one goes on.
            os._exit(1)
        snapshot.compare(report)
        if printed is not None and printed.redirected:
            report("settings", "changed sys.stdout", True)


class _Snapshot:
    def __init__(self) -> None:
        self._settings = Settings()
        self._functions = Functions()
        self._threads = Threads()
        self._children = Children()
        self._descriptors = Descriptors()

    def compare(self, report: Callable[..., None]) -> None:
        """Report and undo changes; functions first, since the other steps call them."""
        swapped, complete = self._functions.restore()
        if swapped:
            report(FUNCTIONS, f"replaced {few(swapped)}", complete)
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
            report(THREADS, f"left threads {few(left)}", False)

    def _compare_settings(self, report: Callable[..., None]) -> None:
        for setting, values, undone in self._settings.changes():
            report("settings", f"{setting.verb} {setting.name}{values}", undone)


class Printed:
    """Text written to stdout, shortened; `redirected`: the code inside replaced sys.stdout."""

    def __init__(self) -> None:
        self.text = ""
        self.redirected = False


class _Start(io.RawIOBase):
    """A file that keeps the first bytes written to it and counts the others."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        room = 4 * LIMIT - len(self._kept)
        if room > 0:
            self._kept += memoryview(data).cast("B")[:room]
        self._count += count
        return count

    def text(self) -> str:
        """The first `LIMIT` characters, then the number of bytes left out."""
        text = self._kept.decode("utf-8", "replace")[:LIMIT]
        more = self._count - len(text.encode())
        return f"{text}\n[{more:,} more bytes]" if more > 0 else text


@contextmanager
def collected() -> Iterator[Printed]:
    """Capture what Python code prints to stdout inside; only the start of the text is kept."""
    printed, start = Printed(), _Start()
    stream = io.TextIOWrapper(
        io.BufferedWriter(start, 1), "utf-8", "replace", newline="\n", write_through=True
    )
    try:
        with redirect_stdout(stream):
            try:
                yield printed
            finally:
                printed.redirected = sys.stdout is not stream
    finally:
        with suppress(Exception):
            # The plug-in may have closed the stream.
            stream.flush()
        printed.text = start.text()


@contextmanager
def contained() -> Iterator[Printed]:
    """Capture Python's stdout inside; afterwards restore working directory and environment."""
    folder, environment = os.getcwd(), dict(os.environ)
    with collected() as printed:
        try:
            yield printed
        finally:
            os.chdir(folder)
            if dict(os.environ) != environment:
                os.environ.clear()
                os.environ.update(environment)
