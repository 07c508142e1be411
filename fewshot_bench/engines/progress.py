"""Progress of a running matrix: one live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import html
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.utils.progress import WATCHED_SECONDS, duration
from fewshot_bench.utils.text import color_system, counted, printable

MOST_SHOTS = 100
# Without a terminal, a line about a running cell follows this many seconds without any other.
SILENT_SECONDS = 30.0
DRAWN_SECONDS = 0.1
# Below this many columns there is little room for a bar.
NARROW = 70
# Characters of a line about a cell; messages of plug-ins have any length.
LONGEST_LINE = 600


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


class Estimate:
    """Time left, estimated from finished cells: seconds per method, scaled by shots.

    Running cells are estimated by their pace; before the first cell is finished, so are the others.
    """

    def __init__(self, cells: Sequence[RunSpec], jobs: int) -> None:
        self._jobs = max(1, min(jobs, len(cells)))
        self._left = {cell.key(): cell for cell in cells}
        self._seen: dict[str, list[tuple[int, float]]] = {}
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
        self._seen.setdefault(cell.label, []).append((_shots(cell), seconds))

    def seconds_left(self) -> float | None:
        """Expected seconds for the remaining cells; None if nothing is known yet."""
        left = {key: pace.seconds_left() for key, pace in self._running.items()}
        paces = {key: seconds for key, seconds in left.items() if seconds is not None}
        seen = self._seen or self._ahead(paces)
        if not seen:
            return None
        total = 0.0
        for key, cell in self._left.items():
            total += paces[key] if key in paces else _expect(cell, seen)
        return total / self._jobs

    def _ahead(self, left: Mapping[str, float]) -> dict[str, list[tuple[int, float]]]:
        """(shots, expected total seconds) of running cells by method."""
        runs: dict[str, list[tuple[int, float]]] = {}
        for key, seconds in left.items():
            cell = self._left[key]
            whole = self._running[key].seconds + seconds
            runs.setdefault(cell.label, []).append((_shots(cell), whole))
        return runs


def _expect(cell: RunSpec, seen: Mapping[str, list[tuple[int, float]]]) -> float:
    """Expected seconds of a cell; seen: (shots, seconds) of others by method."""
    own = seen.get(cell.label)
    if own is None:
        rates = [seconds / shots for runs in seen.values() for shots, seconds in runs]
        return _shots(cell) * sum(rates) / len(rates)
    return expect_seconds(cell, own)


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
    """Shows the progress of cells; this class prints lines, its final subclasses differ."""

    def __init__(
        self,
        cells: Sequence[RunSpec],
        jobs: int = 1,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
    ) -> None:
        self.estimate = Estimate(cells, jobs)
        self.total = len(cells)
        self.done = 0
        self._clock = clock
        self._say = say
        self._begun = self._said = clock()

    def inside(self, cell: RunSpec, done: int, total: int) -> None:
        """Progress within the fit of one cell, or 0 of 0 while it runs; may be called often."""
        now = self._clock()
        self.move(cell, self.estimate.inside(cell, done, total, now), now)

    def move(self, cell: RunSpec, pace: Pace, now: float) -> None:
        """Print a line about a running cell if nothing was printed for a while."""
        if now - self._said >= SILENT_SECONDS:
            self._said = now
            rest = f"{self._rest()} in all" if self._rest() and self.total - self.done > 1 else ""
            line = f"[{self.done}/{self.total}] {cell.describe()}: {pace.text()}{rest}"
            self._say(printable(line))

    def finish(self, record: Record) -> None:
        """Record a finished cell and show its outcome."""
        seconds = float(record.timings.get("elapsed_seconds", 0.0))
        self.estimate.finish(record.spec, seconds)
        self.done += 1
        self.show(record, seconds)

    def show(self, record: Record, seconds: float) -> None:
        """Print the outcome of a cell."""
        self._said = self._clock()
        text = f"({seconds:.1f} s{self._rest()})"
        self._say(f"[{self.done}/{self.total}] {outcome(record)} {text}")

    def _rest(self) -> str:
        left = self.estimate.seconds_left()
        return f", {duration(left)} left" if left else ""


class LiveDisplay(Display):
    """One bar that moves within cells too; outcomes scroll above it."""

    def __init__(
        self,
        cells: Sequence[RunSpec],
        jobs: int,
        bar: Any,
        task: Any,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__(cells, jobs, clock, say)
        self._bar = bar
        self._task = task
        self._drawn = float("-inf")

    def move(self, cell: RunSpec, pace: Pace, now: float) -> None:
        """Move the bar, at most ten times a second."""
        if now - self._drawn >= DRAWN_SECONDS:
            self._drawn = now
            share = min(pace.done / pace.total, 1.0) if pace.total else 0.0
            self._update(f"{pace.text()}: {cell.describe()}", self.done + share)

    def show(self, record: Record, seconds: float) -> None:
        """Print the outcome above the bar."""
        self._bar.console.print(
            f"{outcome(record)} ({seconds:.1f} s)", markup=False, highlight=False
        )
        self._update(record.spec.describe(), self.done)

    def _update(self, text: str, completed: float) -> None:
        left = self.estimate.seconds_left()
        so_far = f"{duration(self._clock() - self._begun)} so far"
        rest = f"{duration(left)} left in all" if left is not None else so_far
        self._bar.update(
            self._task, completed=completed, done=self.done, cell=printable(text), rest=rest
        )


def outcome(record: Record) -> str:
    """One printable line: the cell and its top-1 in percent, or the reason for having none."""
    return printable(f"{record.spec.describe()}: {_outcome(record)}", LONGEST_LINE)


def _outcome(record: Record) -> str:
    if record.status == "done":
        top1 = record.metrics.get("top1")
        return f"{top1:.2f} %" if isinstance(top1, int | float) else "done"
    error = record.error or {}
    first = str(error.get("message", "")).strip().splitlines()
    if record.status == "inapplicable":
        return f"n/a, {' '.join(first)}"
    return f"FAILED, {error.get('type')}: {first[0] if first else ''}"


class SilentDisplay(Display):
    """Shows nothing."""

    def move(self, cell: RunSpec, pace: Pace, now: float) -> None:
        """Nothing."""

    def show(self, record: Record, seconds: float) -> None:
        """Nothing."""


class NotebookDisplay(LiveDisplay):
    """An HTML bar below the notebook cell; outcomes are printed above it."""

    def show(self, record: Record, seconds: float) -> None:
        """Print the outcome, and move the bar."""
        self._say(f"{outcome(record)} ({seconds:.1f} s)")
        self._update(record.spec.describe(), self.done)


class NotebookBar:
    """The bar of `LiveDisplay` as an output of IPython that is replaced in place."""

    def __init__(self, total: int) -> None:
        # No dependency of ours: every notebook has IPython.
        shown = import_module("IPython.display")
        self._html = shown.HTML
        self._total = total
        first = self._html(self._text(0, 0, "", "estimating"))
        self._handle = shown.display(first, display_id=True)

    def update(self, task: Any, *, completed: float, done: int, cell: str, rest: str) -> None:
        """Replace the bar."""
        self._handle.update(self._html(self._text(completed, done, cell, rest)))

    def _text(self, completed: float, done: int, cell: str, rest: str) -> str:
        said = html.escape(f"{done}/{self._total} cells, {rest}")
        return (
            f'<progress max="{self._total}" value="{completed:.2f}"></progress> {said} '
            f"<small>{html.escape(cell)}</small>"
        )


@contextmanager
def silent(cells: Sequence[RunSpec], jobs: int) -> Iterator[Display]:
    """A display that shows nothing."""
    yield SilentDisplay(cells, jobs)


@contextmanager
def notebook(cells: Sequence[RunSpec], jobs: int, say: Callable[[str], None]) -> Iterator[Display]:
    """A bar in a notebook, or nothing if there are no cells to run."""
    if cells:
        yield NotebookDisplay(cells, jobs, NotebookBar(len(cells)), None, say=say)
    else:
        yield SilentDisplay(cells, jobs)


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
    console = Console(color_system=color_system(), stderr=stderr)
    with Progress(*columns, console=console, expand=True) as bar:
        start = f"starting {counted(min(jobs, len(cells)), 'worker')}"
        task = bar.add_task("cells", total=len(cells), done=0, cell=start, rest="estimating")
        yield LiveDisplay(cells, jobs, bar, task)
