"""How downloads and unpacking are shown: bars on a terminal, a line per file elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fewshot_bench.plugins.data.download import Progress
from fewshot_bench.utils.text import size_text

# What is smaller is over before a line about its beginning is read.
WORTH_A_LINE = 10**7


class Lines:
    """One line when something large begins, and one for everything worth telling."""

    def __init__(self) -> None:
        self._last = ""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Say what begins; a new attempt at the same is not said again."""
        if what != self._last and (total >= WORTH_A_LINE or not total):
            size = f", {size_text(total)}" if total else ""
            click.echo(f"  {what}{size}{f', from {size_text(done)} on' if done else ''}")
        self._last = what

    def advance(self, count: int) -> None:
        """Lines do not move."""

    def say(self, line: str) -> None:
        """A line."""
        click.echo(f"  {line}")


class Bars:
    """A bar for what is going on, lines above it."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task: Any = None

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A new bar in place of the last one."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total or None, completed=done)

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._bars.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown(terminal: bool) -> Iterator[Progress]:
    """Bars where the output is a terminal, lines where it is not."""
    if not terminal:
        yield Lines()
        return
    from rich import progress

    columns = (
        progress.TextColumn("  {task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, transient=True) as bars:
        yield Bars(bars)
