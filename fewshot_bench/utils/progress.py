"""Progress of long work: any layer names its steps, and the command that runs shows them.

`current` is the work that is shown, `over` counts items of it. Without a command, nothing is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TypeVar

from fewshot_bench.utils.text import printable

T = TypeVar("T")
# Held while the output of the process is captured, in which a line of progress has no place.
QUIET = threading.RLock()
# Seconds of a step that are observed before its end is predicted.
WATCHED_SECONDS = 1.0


class Work:
    """Long work with a title, at one step at a time.

    clock: returns seconds. aside: a context in which something else can be printed. check: called
    after each part that is done; what it raises ends the step.
    """

    def __init__(self, title: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.title = title
        self.aside: Callable[[], AbstractContextManager[None]] = nullcontext
        self.check: Callable[[], None] | None = None
        self._clock = clock
        self._begun = clock()
        self.step("")

    def step(self, text: str, total: float = 0, done: float = 0, most: float | None = None) -> None:
        """Name the step that begins: `total` parts (0: unknown), `done` of which are there.

        most: seconds that all work that is left may take.
        """
        self.text, self.total, self._first, self.done = text, total, done, done
        self._since = self._clock()
        self._end = None if most is None else self._since + most

    def advance(self, count: float = 1) -> None:
        """Add parts to those of this step that are done."""
        self.done += count
        if self.check:
            self.check()

    @property
    def seconds(self) -> float:
        """Seconds of this step so far."""
        return self._clock() - self._since

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds of this step; None if unknown."""
        parts, seconds = self.done - self._first, self.seconds
        if parts <= 0 or self.total <= 0 or seconds < WATCHED_SECONDS:
            return None
        return seconds / parts * max(self.total - self.done, 0)

    def line(self) -> str:
        """`store verify: records, 12 of 40, 40 s left`; without an end, the time so far."""
        whole = f" of {self.total:,.0f}" if self.total else ""
        count = f"{self.done:,.0f}{whole}" if self.done or whole else ""
        parts = ", ".join(filter(None, (self.text, count, self._time())))
        return printable(f"{self.title}: {parts}")

    def _time(self) -> str:
        now, left = self._clock(), self.seconds_left
        if self._end is not None:
            return f"at most {duration(max(self._end - now, 0.0))} left"
        return f"{duration(now - self._begun)} so far" if left is None else f"{duration(left)} left"


_current: ContextVar[Work] = ContextVar("work")


def current() -> Work:
    """The work of the command that runs; one that nobody sees if there is none."""
    return _current.get(None) or Work()


@contextmanager
def shown(work: Work) -> Iterator[Work]:
    """Make this the current work."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)


def over(items: Iterable[T], text: str, total: int = 0) -> Iterator[T]:
    """The items, counted as a step of the current work.

    total: their number; that of a sequence is known.
    """
    work = current()
    work.step(text, total or (len(items) if isinstance(items, Sequence) else 0))
    for item in items:
        yield item
        work.advance()


def duration(seconds: float) -> str:
    """Human-readable seconds: 45 s, 3 min, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
