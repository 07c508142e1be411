"""Messages of a run: to a terminal, to a notebook, or by Python's warnings.

`Reporter` is the interface; the command line implements its own. A quiet `CallReporter` still
issues problems as warnings. `Display` shows the progress of cells, `failure_lines` are the reasons
of failed ones: a paragraph each, with the plug-in author's frame and the record.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
import time
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_bench.api import own_methods
from fewshot_bench.api.author_frame import author_frame, place_of, short_path, top_module
from fewshot_bench.api.registry import registry
from fewshot_bench.store.log_files import ENDING, LOG
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.progress import WATCHED_SECONDS, duration
from fewshot_bench.utils.text import (
    FEW,
    MANY,
    color_system,
    counted,
    printable,
    printable_lines,
    shortened,
)

if TYPE_CHECKING:
    from fewshot_bench.api.record import Record
    from fewshot_bench.api.spec import RunSpec
    from fewshot_bench.store.store import Store

_PACKAGE = str(Path(__file__).parents[1])
MOST_SHOTS = 100
# Without a terminal, a line about a running cell follows this many seconds without any other.
SILENT_SECONDS = 30.0
DRAWN_SECONDS = 0.1
# Below this many columns there is little room for a bar.
NARROW = 70
# Characters of a line about a cell; messages of plug-ins have any length.
LONGEST_LINE = 600
LONGEST_REASON = 600
# Errors about `logits` state its place themselves; pointing at `fit` would be misleading.
_ABOUT_LOGITS = re.compile(r"logits\(\)|\S+\.logits\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


class FsbenchWarning(UserWarning):
    """A problem of a run that does not stop it, but that its caller should notice.

    >>> warnings.simplefilter("error", FsbenchWarning)
    """


class Reporter(ABC):
    """Receives the messages of a run; texts may contain names from files."""

    @abstractmethod
    def info(self, text: str) -> None:
        """A message on the state of the run."""

    def notice(self, text: str) -> None:
        """A message beside the results, such as the next step after an interrupt."""
        self.info(text)

    def output(self, text: str) -> None:
        """A line of what a cell prints."""
        self.info(text)

    @abstractmethod
    def warning(self, text: str) -> None:
        """A warning about results."""

    def unusable(self, text: str) -> None:
        """The reason why a data set cannot be used."""
        self.warning(text)

    @abstractmethod
    def failures(self, lines: Sequence[str]) -> None:
        """The reasons of cells that failed."""

    def results(self, folder: Path, filters: Sequence[str] = ()) -> None:
        """The folder of the results, at the end of a run, and the options that show them alone."""

    @abstractmethod
    def progress(self, cells: Sequence[RunSpec], workers: int) -> AbstractContextManager[Display]:
        """The display of running cells."""


class CallReporter(Reporter):
    """Reports a call from Python: progress on stderr or in the notebook, problems as warnings.

    shown: False hides progress; True and None show it, as a bar on a terminal and in a notebook,
    elsewhere as plain lines.
    """

    def __init__(self, shown: bool | None = None) -> None:
        self._shown = shown is not False

    def info(self, text: str) -> None:
        """A line where progress is shown."""
        if self._shown:
            stream = sys.stdout if in_notebook() else sys.stderr
            print(printable_lines(text), file=stream, flush=True)

    def warning(self, text: str) -> None:
        """Issue a warning at the line that called the library."""
        _warn(printable(text))

    def failures(self, lines: Sequence[str]) -> None:
        """One warning of several lines."""
        if lines:
            _warn("\n".join(map(printable, lines)))

    def progress(self, cells: Sequence[RunSpec], workers: int) -> AbstractContextManager[Display]:
        """A bar or lines, or nothing."""
        if self._shown and in_notebook() and cells:
            return nullcontext(Display(cells, workers, bar=NotebookBar(len(cells), self.info)))
        live = self._shown and not in_notebook() and sys.stderr is not None and sys.stderr.isatty()
        return display(cells, workers, live=live, say=self.info, stderr=True)


def in_notebook() -> bool:
    """True if this process is the kernel of a notebook, which shows HTML."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell is not None else None
    return hasattr(kernel, "kernel")


def _warn(text: str) -> None:
    """Issue a warning at the first line outside of this package."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, FsbenchWarning, stacklevel=level)


class Pace:
    """Speed of one cell's fit, measured from its first progress report."""

    def __init__(self, done: int, now: float) -> None:
        self.began = now
        self.done = self._first = done
        self.total = 0
        self._now = now

    def observe(self, done: int, total: int, now: float) -> None:
        """Record that the fit is at step `done` of `total`."""
        self.done, self.total, self._now = done, total, now

    @property
    def seconds(self) -> float:
        """Seconds between the first and the latest report."""
        return self._now - self.began

    def seconds_left(self) -> float | None:
        """Expected seconds until the last step; None before there is a pace."""
        steps = self.done - self._first
        if steps <= 0 or self.seconds < WATCHED_SECONDS:
            return None
        return self.seconds / steps * max(self.total - self.done, 0)

    def text(self) -> str:
        """`step 120/500, 3 min left`; `4 min so far` if it reports no steps."""
        if not self.total:
            return f"{duration(self.seconds)} so far"
        left = self.seconds_left()
        rest = "" if left is None else f", {duration(left)} left"
        return f"step {self.done:,}/{self.total:,}{rest}"


Runs = Mapping[str, Sequence[tuple[int, float]]]


class Estimate:
    """Time left, estimated from finished cells: seconds per method, scaled by shots.

    Running cells are estimated by their pace; before the first cell is finished, so are the others.
    """

    def __init__(self, cells: Sequence[RunSpec], jobs: int) -> None:
        self._jobs = max(1, min(jobs, len(cells)))
        self._left = {cell.key(): cell for cell in cells}
        self._seen: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._running: dict[str, Pace] = {}

    def inside(self, cell: RunSpec, done: int, total: int, now: float) -> Pace:
        """Record the progress of a running cell; a retried cell starts a new pace.

        Without a total, only the time that a cell without steps has taken is recorded.
        """
        if total <= 0:
            done = total = 0
        pace = self._running.get(cell.key())
        if pace is None or (total and (done < pace.done or not pace.total)):
            pace = self._running[cell.key()] = Pace(done, now)
        if total or not pace.total:
            pace.observe(done, total, now)
        return pace

    def finish(self, cell: RunSpec, seconds: float) -> None:
        """Record the seconds that a cell took."""
        self._left.pop(cell.key(), None)
        self._running.pop(cell.key(), None)
        self._seen[cell.label].append((_shots(cell), seconds))

    def seconds_left(self) -> float | None:
        """Expected seconds for the remaining cells; None if nothing is known yet."""
        left = {key: pace.seconds_left() for key, pace in self._running.items()}
        paces = {key: seconds for key, seconds in left.items() if seconds is not None}
        runs = self._seen
        if not runs:
            runs = defaultdict(list)
            for key, seconds in paces.items():
                whole = self._running[key].seconds + seconds
                runs[self._left[key].label].append((_shots(self._left[key]), whole))
        if not runs:
            return None
        total = sum(
            paces[key] if key in paces else _expect(cell, runs) for key, cell in self._left.items()
        )
        return total / self._jobs


def _expect(cell: RunSpec, runs: Runs) -> float:
    """Expected seconds of a cell; runs: (shots, seconds) of others by method."""
    if cell.label in runs:
        return expect_seconds(cell, runs[cell.label])
    rates = [seconds / shots for own in runs.values() for shots, seconds in own]
    return _shots(cell) * sum(rates) / len(rates)


def expect_seconds(cell: RunSpec, own: Sequence[tuple[int, float]]) -> float:
    """Expected seconds of a cell; own: (shots, seconds) of others of its method, at least one."""
    same = [seconds for shots, seconds in own if shots == _shots(cell)]
    if same:
        return sum(same) / len(same)
    shots, seconds = min(own, key=lambda run: abs(run[0] - _shots(cell)))
    return seconds * _shots(cell) / shots


def _shots(cell: RunSpec) -> int:
    """Shots of a cell, capped at `MOST_SHOTS`: the number of all train images is not known here."""
    return min(cell.shots, MOST_SHOTS)


class Display:
    """Shows the progress of cells: few lines, or a bar that moves within cells, too."""

    def __init__(
        self,
        cells: Sequence[RunSpec],
        jobs: int = 1,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
        bar: TerminalBar | NotebookBar | None = None,
    ) -> None:
        self.estimate = Estimate(cells, jobs)
        self.total = len(cells)
        self.done = 0
        self._clock, self._say, self._bar = clock, say, bar
        self._begun = clock()
        self._shown = self._begun if bar is None else float("-inf")

    def inside(self, cell: RunSpec, done: int, total: int) -> None:
        """Progress within the fit of one cell, or 0 of 0 while it runs; may be called often."""
        now = self._clock()
        pace = self.estimate.inside(cell, done, total, now)
        if now - self._shown < (SILENT_SECONDS if self._bar is None else DRAWN_SECONDS):
            return
        self._shown = now
        if self._bar is not None:
            share = min(pace.done / pace.total, 1.0) if pace.total else 0.0
            self._move(self._bar, f"{pace.text()}: {cell.describe()}", self.done + share)
            return
        left = self._time_left()
        rest = f"{left} in all" if left and self.total - self.done > 1 else ""
        line = f"[{self.done}/{self.total}] {cell.describe()}: {pace.text()}{rest}"
        self._say(printable(line))

    def finish(self, record: Record) -> None:
        """Record a finished cell and show its outcome."""
        seconds = float(record.timings.get("elapsed_seconds", 0.0))
        self.estimate.finish(record.spec, seconds)
        self.done += 1
        line = f"{outcome(record)} ({seconds:.1f} s"
        if self._bar is None:
            self._shown = self._clock()
            self._say(f"[{self.done}/{self.total}] {line}{self._time_left()})")
        else:
            self._bar.print(f"{line})")
            self._move(self._bar, record.spec.describe(), self.done)

    def _time_left(self) -> str:
        left = self.estimate.seconds_left()
        return f", {duration(left)} left" if left else ""

    def _move(self, bar: TerminalBar | NotebookBar, text: str, completed: float) -> None:
        left = self.estimate.seconds_left()
        so_far = f"{duration(self._clock() - self._begun)} so far"
        rest = so_far if left is None else f"{duration(left)} left in all"
        bar.update(completed, self.done, printable(text), rest)


def outcome(record: Record) -> str:
    """One printable line: the cell and its top-1 in percent, or the reason for having none."""
    error = record.error or {}
    lines = str(error.get("message", "")).strip().splitlines()
    if record.status == "done":
        top1 = record.metrics.get("top1")
        text = f"{top1:.2f} %" if isinstance(top1, int | float) else "done"
    elif record.status == "inapplicable":
        text = f"n/a, {' '.join(lines)}"
    else:
        text = f"FAILED, {error.get('type')}: {lines[0] if lines else ''}"
    return printable(f"{record.spec.describe()}: {text}", LONGEST_LINE)


class TerminalBar:
    """A task of rich's progress."""

    def __init__(self, progress: Any, cells: int, text: str) -> None:
        self._progress = progress
        self._task = progress.add_task("cells", total=cells, done=0, cell=text, rest="estimating")

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)

    def update(self, completed: float, done: int, cell: str, rest: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=completed, done=done, cell=cell, rest=rest)


class NotebookBar:
    """An output of IPython that is replaced in place."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        # No dependency of ours: every notebook has IPython.
        shown = import_module("IPython.display")
        self.print = say
        self._html, self._total = shown.HTML, total
        self._handle = shown.display(self._draw(0, 0, "", "estimating"), display_id=True)

    def update(self, completed: float, done: int, cell: str, rest: str) -> None:
        """Replace the bar."""
        self._handle.update(self._draw(completed, done, cell, rest))

    def _draw(self, completed: float, done: int, cell: str, rest: str) -> Any:
        said = html.escape(f"{done}/{self._total} cells, {rest}")
        return self._html(
            f'<progress max="{self._total}" value="{completed:.2f}"></progress> {said} '
            f"<small>{html.escape(cell)}</small>"
        )


@contextmanager
def display(
    cells: Sequence[RunSpec],
    jobs: int,
    *,
    live: bool,
    say: Callable[[str], None],
    stderr: bool = False,
) -> Iterator[Display]:
    """A bar when `live`, on stdout or stderr, else plain lines that `say` prints."""
    if not live:
        yield Display(cells, jobs, say=say)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    # On a narrow terminal, only the name of the cell is cut.
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        BarColumn(bar_width=20 if shutil.get_terminal_size().columns >= NARROW else 4),
        TextColumn("{task.fields[done]}/{task.total} cells"),
        TextColumn("{task.fields[rest]}"),
        TextColumn("{task.fields[cell]}", markup=False, table_column=rest),
    )
    # Not whatever stands there when the bar is drawn: output of a cell may be collected then.
    console = Console(color_system=color_system(), file=sys.stderr if stderr else sys.stdout)
    text = f"starting {counted(min(jobs, len(cells)), 'worker')}"
    with Progress(*columns, console=console, expand=True) as progress:
        yield Display(cells, jobs, bar=TerminalBar(progress, len(cells), text))


@dataclass
class Reason:
    """A reason why one or several cells failed; text, frame, trace and log are of the first.

    log: True if what it printed is kept.
    """

    text: str
    frame: str
    trace: str
    log: bool = False
    cells: list[RunSpec] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The cell, or its method and the data sets of all cells."""
        first = self.cells[0]
        if len(self.cells) == 1:
            return first.describe()
        names = dict.fromkeys(cell.evaluated for cell in self.cells)
        return (
            f"{first.label} on {', '.join(shortened(list(names), FEW))} ({len(self.cells)} cells)"
        )


def reasons(records: Iterable[Record]) -> list[Reason]:
    """Failures grouped by method, place and message; numbers in messages are ignored."""
    groups: dict[tuple[str, ...], Reason] = {}
    for record in records:
        if record.status == "failed":
            reason = _read_reason(record)
            key = record.spec.label, reason.frame, _NUMBER.sub("0", reason.text)
            groups.setdefault(key, reason).cells.append(record.spec)
    return list(groups.values())


def _read_reason(record: Record) -> Reason:
    error = record.error or {}
    trace = str(error.get("traceback") or "")
    kind, message = str(error.get("type") or "?"), str(error.get("message") or "").strip()
    text = printable(f"{kind}: {message}" if message else kind, LONGEST_REASON)
    frame = find_frame(record.spec, kind, message, trace)
    return Reason(text, frame, trace, LOG in record.digests)


def find_frame(spec: RunSpec, kind: str, message: str, trace: str) -> str:
    """`file:line in function` where the author of a cell's plug-ins looks for its error.

    kind: the name of the error's class. Empty if it is not known.
    """
    method = spec.method
    frame = author_frame(trace, list_packages(spec))
    if not frame and kind == "ContractError" and not _ABOUT_LOGITS.match(message):
        # The harness raised it: point at the method's `fit`.
        with suppress(FsbenchError):
            cls = registry().method_class(method)
            frame = str(getattr(cls, "_fit_at", "")) or place_of(cls, getattr(cls, "fit", None))
    return frame


def list_packages(spec: RunSpec) -> Iterator[str]:
    """The top-level modules of a cell's method and data sets."""
    catalogs = registry()
    families = [f"{name.partition(':')[0]}:" for name in (spec.dataset, spec.target) if name]
    names = (*families, spec.dataset, spec.target)
    datasets = [catalogs.datasets.entries.get(name) for name in names]
    if own := own_methods.find(spec.method):
        yield Path(own.facts.file).stem
    for entry in (catalogs.methods.entries.get(spec.method), *datasets):
        if entry is not None:
            yield top_module(entry.target)


def failure_lines(records: Sequence[Record], store: Store, *, whole: bool) -> list[str]:
    """Lines on the reasons of failed cells, empty without failures; `whole` adds tracebacks."""
    groups = reasons(records)
    if not groups:
        return []
    lines = [f"{counted(sum(len(reason.cells) for reason in groups), 'cell')} failed:"]
    for reason in groups if whole else groups[:MANY]:
        lines.append(f"  {reason.where}: {reason.text}")
        if reason.frame:
            lines.append(f"      at {reason.frame}")
        more = f" and {len(reason.cells) - 1} more" if len(reason.cells) > 1 else ""
        path = short_path(str(store.file(reason.cells[0].key())))
        lines.append(f"      record: {path}{more}")
        if reason.log:
            lines.append(f"      log: {path.removesuffix('.json')}{ENDING}")
        if whole:
            lines += trace_lines(reason)
    if len(groups) > MANY and not whole:
        lines.append(f"and {counted(len(groups) - MANY, 'more reason')}")
    step = "" if whole else "fsbench show RECORD, or run --traceback, prints the whole; "
    return [*lines, f"({step}--retry-failed computes these cells again)"]


def trace_lines(reason: Reason) -> Iterator[str]:
    """The lines of the traceback, indented and prefixed with a bar."""
    yield from (f"      | {line}" for line in reason.trace.rstrip().splitlines())
