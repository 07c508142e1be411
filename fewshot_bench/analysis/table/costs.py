"""Costs of a cell: definition, texts and heads of each in one `Column`; a new one is added here.

`COSTS` holds them all, in the order of tables. They are read from records, put together over seeds
and data sets, and shown by tables, CSV, JSON, sorting and reports.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.api.record import Record

MINUTE, HOUR = 60, 3600
Value = float | None


def number(value: object) -> Value:
    """A value of a record as a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Whole numbers too large for a float are as infinite; not-a-number is no less than anything.
    return value if abs(value) <= sys.float_info.max else None


def mean_of(values: Sequence[Value]) -> Value:
    """The mean, the very value when all are equal; None when one is not known."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return known[0] if len(set(known)) == 1 else math.fsum(known) / len(known)


def largest(values: Sequence[Value]) -> Value:
    """The largest value that is known."""
    return max((value for value in values if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class Column:
    """One cost of a cell; less of it is better.

    name: in `--columns` and `--sort`. head: over tables of text. key: its column in CSV and JSON.
    part, entry: where a record has it. together: over seeds and over data sets. text: in tables of
    text, without a unit. title, hint: over the report's leaderboard. axis: of its figure, with the
    unit. words: with the unit. sentence: a method with such a cost ("takes 3 s"). subject: its name
    in a sentence. line: over the shots of a line, where that is not the range.
    """

    name: str
    head: str
    key: str
    part: str
    entry: str
    together: Callable[[Sequence[Value]], Value]
    text: Callable[[float], str]
    title: str
    hint: str
    axis: str
    words: Callable[[float], str]
    sentence: Callable[[str, float], str]
    subject: str
    line: Callable[[Sequence[Value]], Value] | None = None

    def of(self, records: Iterable[Record]) -> Value:
        """That of finished records: what they state, together."""
        stated = (number(getattr(record, self.part).get(self.entry)) for record in records)
        return self.together([value for value in stated if value is not None])

    def shown(self, values: Sequence[Value]) -> str:
        """One text for a line over its shots; empty where nothing is known."""
        chosen = [self.line(values)] if self.line else values
        known = [value for value in chosen if value is not None]
        return span(known, self.text)


def span(values: Sequence[float], write: Callable[[float], str]) -> str:
    """One number, or the range from the least to the most; empty without any."""
    if not values:
        return ""
    low, high = write(min(values)), write(max(values))
    return low if low == high else f"{low}–{high}"


def count(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds with about three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(value: float) -> str:
    """Seconds, minutes or hours, with about two or three digits."""
    if value < MINUTE:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    if value < HOUR:
        return f"{value / MINUTE:.1f} min"
    return f"{value / HOUR:.1f} h"


def parameters(value: float) -> str:
    """A number of parameters: 512, 184.3 k, 8.2 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


def megabytes(value: float) -> str:
    """Memory in MB or GB (powers of 1,000)."""
    return f"{value / 1000:.2f} GB" if value >= 1000 else f"{value:.0f} MB"


TRAINED = Column(
    name="trained",
    head="trained",
    key="trained_params",
    part="footprint",
    entry="trained",
    together=mean_of,
    text=count,
    title="trained",
    hint="parameters that the optimizer was seen to train",
    axis="trained parameters",
    words=parameters,
    sentence=lambda words, value: f"trains {words if value else 'no'} parameters",
    subject="trained parameters",
)
BILLED = Column(
    name="billed",
    head="billed s",
    key="billed_seconds",
    part="timings",
    entry="billed_seconds",
    together=mean_of,
    text=seconds,
    title="time",
    hint="of a run, a mean; what a cache saved is added again (billed time)",
    axis="billed time of a run, s",
    words=duration,
    sentence=lambda words, _: f"takes {words}",
    subject="time",
)
PEAK = Column(
    name="peak",
    head="peak MB",
    key="peak_memory_mb",
    part="footprint",
    entry="peak_memory_mb",
    together=largest,
    text=count,
    title="memory",
    hint="largest peak of any run",
    axis="peak memory, MB",
    words=megabytes,
    sentence=lambda words, _: f"needs up to {words} of memory",
    subject="memory",
    line=largest,
)
COSTS: Mapping[str, Column] = {column.name: column for column in (TRAINED, BILLED, PEAK)}
