"""A budget of wall time and memory, and the watch that keeps a fit within it.

`Budget` is the entry point. Time for the final fit and for writing is part of the budget.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fewshot_bench.utils.errors import FsbenchError, UsageError
from fewshot_bench.utils.text import size_text

_PART = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(h|m|s)", re.ASCII)
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
# Kept for what comes after the last fit: writing the folder, and a machine that got slower.
SPARE, SLOWER = 0.08, 1.3
# How much of a fit is seen before its end is foretold.
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
    """Seconds as a person reads them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
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
    """Seconds from now on, and bytes of memory (None: what the machine has).

    reserved: seconds that the final fit is expected to take.
    """

    seconds: float
    memory: int | None = None
    clock: Callable[[], float] = time.monotonic
    reserved: float = 0.0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self.began = self.clock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    @property
    def left(self) -> float:
        """Seconds that may still go into choosing."""
        return self.seconds * (1 - SPARE) - self.spent - self.reserved

    def watch(self, fits: int) -> Callable[[int, int], None]:
        """The `progress` of a fit that is one of so many: OverBudget when they would take too long.

        As soon as a fit says how far it is, the time of all of them is foretold.
        """
        begun, left = self.clock(), self.left
        first: list[float] = []

        def progress(done: int, total: int) -> None:
            now = self.clock()
            self.check_memory()
            # What comes before the first step, such as encoding, does not come again.
            first.extend(() if first else (now, done))
            since, steps = now - first[0], done - first[1]
            whole = now - begun
            if steps > 0:
                whole += since / steps * max(total - done, 0)
            foretold = steps > 0 and since >= SEEN_SECONDS and whole * fits > left
            if now - begun > left or foretold:
                raise OverBudget(f"no time: {fits} fits of about {duration(whole)}")

        return progress

    def check_memory(self) -> None:
        """OverBudget where this process holds more than the memory."""
        if self.memory is None:
            return
        import psutil

        held = psutil.Process().memory_info().rss
        if held > self.memory:
            raise OverBudget(f"no memory: {size_text(held)} of {size_text(self.memory)}")
