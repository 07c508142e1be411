"""A budget of wall time and memory, and the watch that keeps a fit within it.

`Budget` is the entry point. Time for the final fit and for writing is part of the budget.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.text import size_text

BUDGET = "10m"
KEPT = 0.95
"""Default share of right images that `--reject` keeps."""
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(h|m|s)", re.ASCII)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
# Share kept for writing the folder after the last fit; factor for a machine that gets slower.
SPARE, SLOWER = 0.08, 1.3
# Seconds of a fit that are observed before its end is predicted.
SEEN_SECONDS = 1.0


class OverBudget(FsbenchError):
    """A fit that would not end within the budget."""


def read_duration(text: str) -> float:
    """Seconds of `10m`, `90s`, `1h30m` or a number of seconds; UsageError for others."""
    written = text.strip().lower().replace(" ", "")
    parts = _PART.findall(written)
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", written, re.ASCII):
        parts = [(written, "s")]
    elif "".join(number + unit for number, unit in parts) != written:
        parts = []
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UsageError(f"budget '{text:.40}': expected a time such as 10m, 90s or 1h30m")
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


@dataclass
class Budget:
    """Seconds from now on, and bytes of memory (None: no limit).

    reserved: seconds that the final fit is expected to take.
    """

    seconds: float
    memory: int | None = None
    clock: Callable[[], float] = time.monotonic
    reserved: float = 0.0
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
        return self.seconds * (1 - SPARE) - self.spent - self.reserved

    def watch(self, fits: int) -> Callable[[int, int], None]:
        """`progress` of one of `fits` fits: OverBudget if they exceed the time left or the memory.

        The time of all fits is predicted once a fit has reported steps for SEEN_SECONDS.
        """
        import psutil

        begun, left, memory_info = self.clock(), self.left, psutil.Process().memory_info
        first: list[float] = []

        def progress(done: int, total: int) -> None:
            now = self.clock()
            if self.memory is not None and (held := memory_info().rss) > self.memory:
                raise OverBudget(f"no memory: {size_text(held)} of {size_text(self.memory)}")
            current().reach(done, total)
            # Work before the first report, such as encoding, is not repeated for later steps.
            first.extend(() if first else (now, done))
            since, steps = now - first[0], done - first[1]
            whole = now - begun
            if steps > 0:
                whole += since / steps * max(total - done, 0)
            foretold = steps > 0 and since >= SEEN_SECONDS and whole * fits > left
            if now - begun > left or foretold:
                raise OverBudget(f"no time: {fits} fits of about {duration(whole)}")

        return progress
