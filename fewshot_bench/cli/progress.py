"""How a running matrix is shown: one live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.styles import color_system
from fewshot_bench.wording import printable

MOST_SHOTS = 100


class Estimate:
    """Time left, from the cells that are finished: seconds per method, scaled by shots."""

    def __init__(self, cells: Sequence[RunSpec], jobs: int) -> None:
        self._jobs = max(1, min(jobs, len(cells)))
        self._left = {cell.key(): cell for cell in cells}
        self._seen: dict[str, list[tuple[int, float]]] = {}

    def finished(self, cell: RunSpec, seconds: float) -> None:
        """Learn what a cell took."""
        self._left.pop(cell.key(), None)
        self._seen.setdefault(cell.label, []).append((_shots(cell), seconds))

    def seconds_left(self) -> float | None:
        """Expected seconds for the cells that are left; None before the first one ends."""
        if not self._seen:
            return None
        return sum(self._expected(cell) for cell in self._left.values()) / self._jobs

    def _expected(self, cell: RunSpec) -> float:
        seen = self._seen.get(cell.label)
        if seen is None:
            rates = [s / shots for runs in self._seen.values() for shots, s in runs]
            return _shots(cell) * sum(rates) / len(rates)
        same = [seconds for shots, seconds in seen if shots == _shots(cell)]
        if same:
            return sum(same) / len(same)
        shots, seconds = min(seen, key=lambda run: abs(run[0] - _shots(cell)))
        return seconds * _shots(cell) / shots


def _shots(cell: RunSpec) -> int:
    """All train images of a class count as some that are not known before a cell has taken them."""
    return min(cell.shots, MOST_SHOTS)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 45 s, 3 min, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Display:
    """Tells about cells as they run; subclasses are final and differ in how."""

    def __init__(self, cells: Sequence[RunSpec], jobs: int = 1) -> None:
        self.estimate = Estimate(cells, jobs)
        self.total = len(cells)
        self.done = 0

    def inside(self, cell: RunSpec, done: int, total: int) -> None:
        """Progress within the fit of one cell."""

    def finish(self, record: Record) -> None:
        """A cell has its record."""
        seconds = float(record.timings.get("elapsed_seconds", 0.0))
        self.estimate.finished(record.spec, seconds)
        self.done += 1
        self.show(record, seconds)

    def show(self, record: Record, seconds: float) -> None:
        """Print the outcome of a cell."""
        left = self.estimate.seconds_left()
        rest = f", {duration(left)} left" if left else ""
        click.echo(f"[{self.done}/{self.total}] {outcome(record)} ({seconds:.1f} s{rest})")


class LiveDisplay(Display):
    """One bar that moves within cells too; outcomes scroll above it."""

    def __init__(self, cells: Sequence[RunSpec], jobs: int, bar: Any, task: Any) -> None:
        super().__init__(cells, jobs)
        self._bar = bar
        self._task = task
        self._drawn = 0.0

    def inside(self, cell: RunSpec, done: int, total: int) -> None:
        """Move the bar, at most ten times a second."""
        now = time.monotonic()
        if now - self._drawn > 0.1 and total:
            self._drawn = now
            self._update(cell.describe(), self.done + done / total)

    def show(self, record: Record, seconds: float) -> None:
        """Print the outcome above the bar."""
        self._bar.console.print(
            f"{outcome(record)} ({seconds:.1f} s)", markup=False, highlight=False
        )
        self._update(record.spec.describe(), self.done)

    def _update(self, text: str, completed: float) -> None:
        left = self.estimate.seconds_left()
        rest = f"{duration(left)} left" if left is not None else "estimating"
        self._bar.update(self._task, completed=completed, done=self.done, cell=text, rest=rest)


def outcome(record: Record) -> str:
    """One printable line: the cell and its top-1 in percent, or why there is no number."""
    return printable(f"{record.spec.describe()}: {_outcome(record)}")


def _outcome(record: Record) -> str:
    if record.status == "done":
        top1 = record.metrics.get("top1")
        return f"{top1:.2f} %" if isinstance(top1, int | float) else "done"
    error = record.error or {}
    first = str(error.get("message", "")).strip().splitlines()
    if record.status == "inapplicable":
        return f"n/a, {' '.join(first)}"
    return f"FAILED, {error.get('type')}: {first[0] if first else ''}"


@contextmanager
def display(cells: Sequence[RunSpec], jobs: int, *, live: bool) -> Iterator[Display]:
    """A bar when `live`, else plain lines."""
    if not live:
        yield Display(cells, jobs)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        BarColumn(),
        TextColumn("{task.fields[done]}/{task.total} cells"),
        TextColumn("{task.fields[rest]}"),
        TextColumn("{task.fields[cell]}", markup=False),
    )
    with Progress(*columns, console=Console(color_system=color_system())) as bar:
        task = bar.add_task("cells", total=len(cells), done=0, cell="", rest="estimating")
        yield LiveDisplay(cells, jobs, bar, task)
