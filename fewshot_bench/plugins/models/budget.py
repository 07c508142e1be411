"""A budget of wall time and memory, and the watch that keeps a fit within it.

`Budget` is the entry point. Time for the final fit and for writing is part of the budget.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from statistics import median_low

from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.processes import interrupted_after
from fewshot_bench.utils.progress import Work, current, shown
from fewshot_bench.utils.text import size_text

BUDGET = "10m"
KEPT = 0.95
"""Default share of right images that `--reject` keeps."""
_NUMBER = r"(\d{1,9}(?:\.\d{1,6})?)"
_TIME = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?|{_NUMBER}", re.ASCII)
# Shares kept for writing the folder after the last fit, and for fits; factor for slower machines.
SPARE, FITS, SLOWER = 0.08, 0.12, 1.3
# Share of the budget that is observed before work is refused.
WATCHED = 0.05
# Seconds of a fit that are observed between two predictions of its end.
SEEN_SECONDS = 1.0


class OverBudget(FsbenchError):
    """A fit that would not end within the budget; each: seconds that it takes, 0 if unknown."""

    def __init__(self, text: str, each: float = 0.0) -> None:
        super().__init__(text)
        self.each = each


def read_duration(value: str | float) -> float:
    """Seconds of `10m`, `90s`, `1h30m` or a number of seconds; UsageError for others."""
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise TypeError(value)
    match = _TIME.fullmatch(str(value).strip().lower().replace(" ", ""))
    parts = zip(match.groups("0"), (3600, 60, 1, 1), strict=True) if match else ()
    seconds = sum(float(number) * unit for number, unit in parts)
    if seconds <= 0:
        raise UsageError(f"--budget {value!s:.40}: expected a time such as 10m, 90s or 1h30m")
    return seconds


def duration(seconds: float) -> str:
    """Seconds as readable text: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def roomy(seconds: float) -> str:
    """A budget with room for so many seconds, as `--budget` takes it: 40s, 6m."""
    wanted = SLOWER * seconds / (1 - SPARE - FITS)
    return f"{math.ceil(wanted / 10) * 10}s" if wanted <= 60 else f"{math.ceil(wanted / 60)}m"


@dataclass
class Budget:
    """Seconds from now on, and bytes of memory (None: no limit).

    reserved: seconds that the final fit is expected to take. spare: share kept for what follows it.
    """

    seconds: float
    memory: int | None = None
    clock: Callable[[], float] = time.monotonic
    reserved: float = 0.0
    spare: float = SPARE
    began: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds that may still go into choosing."""
        return self.seconds * (1 - self.spare) - self.spent - self.reserved

    @contextmanager
    def refusing(self, more: float = 0.0) -> Iterator[Work]:
        """UsageError as soon as a step of the current work is known to end after the budget.

        more: expected time of later work before the first fit, in times of such a step.
        """
        work, begun = current(), set[str]()

        def check() -> None:
            if work.text not in begun:
                # The first part also starts what all others need, so it is not timed.
                begun.add(work.text)
                work.step(work.text, work.total, work.done)
            left = work.seconds_left
            if left is None or work.seconds < WATCHED * self.seconds:
                return
            if left > self.left - FITS * self.seconds:
                whole, total = (1 + more) * (work.seconds + left), work.total
                enough = roomy(self.spent + whole - work.seconds)
                fitting = max(0.0, self.left + work.seconds) / (2 * whole) * total
                fewer = f", or --shots for at most {fitting:,.0f} images" if fitting >= 1 else ""
                raise UsageError(
                    f"{work.text}: all {total:,.0f} are done {duration(self.spent + left)} after "
                    f"the start, which is too late in a budget of {duration(self.seconds)}; "
                    f"give --budget {enough}{fewer}"
                )

        work.check = check
        with shown(work):
            yield work
        work.check = None

    @contextmanager
    def watch(self, fits: int) -> Iterator[Callable[[int, int], None]]:
        """Yield `progress` of one of `fits` fits; OverBudget if they exceed what is left.

        The time of all fits is predicted from the median time of a step: the first ones also encode
        texts and views, which are kept for other fits. A fit that reports no steps is ended once it
        took half of the time for several.
        """
        import psutil

        begun = looked = self.clock()
        left, memory_info = self.left, psutil.Process().memory_info
        seen: list[tuple[float, int]] = []

        def progress(done: int, total: int) -> None:
            nonlocal looked
            now = self.clock()
            if self.memory is not None and (held := memory_info().rss) > self.memory:
                raise OverBudget(f"no memory: {size_text(held)} of {size_text(self.memory)}")
            seen.append((now, done))
            if now - looked < SEEN_SECONDS and now - begun <= left:
                return
            looked = now
            paces = [(late - soon) / (n - m) for (soon, m), (late, n) in pairwise(seen) if n > m]
            pace = median_low(paces) if len(paces) > 1 else 0.0
            whole = now - begun + pace * max(total - done, 0)
            if whole + (fits - 1) * pace * total > left:
                each = max(whole if fits == 1 else 0.0, pace * total)
                many = f"{fits} fits of" if fits > 1 else "a fit takes"
                raise OverBudget(f"no time: {many} about {duration(each)}", each)

        if left <= 0:
            raise OverBudget("no time left", SEEN_SECONDS)
        most = left / min(fits, 2)
        try:
            with interrupted_after(most) as rang:
                yield progress
        except KeyboardInterrupt:
            if not rang():
                raise
            text = f"no time: a fit takes more than {duration(most)}"
            raise OverBudget(text, 2 * most) from None
