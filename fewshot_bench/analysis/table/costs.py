"""Costs of cells: where each stands in records, how it is aggregated, its texts and heads.

`COSTS` holds those of every table, in order, `MORE_COSTS` and `RARE_COSTS` those that are read on
request alone; a new one is added only here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.utils.text import fixed

MINUTE, HOUR = 60, 3600
Value = float | None


def number(value: object) -> Value:
    """A value of a record as a finite number, zero without a sign; None for anything else."""
    if type(value) is float and -sys.float_info.max <= value <= sys.float_info.max:
        # The same object but for minus zero: a table of many records has many numbers.
        return value or 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Ints too large for a float count as infinite; NaN fails every comparison.
    return value if abs(value) <= sys.float_info.max else None


def mean_of(values: Sequence[Value]) -> Value:
    """The mean, or the value itself if all are equal; None if any value is unknown."""
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return numbers[0] if len(set(numbers)) == 1 else math.fsum(numbers) / len(numbers)


def largest(values: Sequence[Value]) -> Value:
    """The largest known value; None if all are unknown."""
    return max((value for value in values if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class Cost:
    """One cost of a cell.

    name: in `--columns` and `--sort`. head: column head in text tables. key: column in CSV and
    JSON. source: the entry of records. together: aggregates over seeds and over
    data sets. text: formats a value for text tables, without unit. title, hint: head in the
    report's leaderboard. axis: axis label of its figure, with unit. words: formats a value with
    unit. sentence: phrase about a method with this cost ("takes 3 s"). subject: name of the cost in
    a sentence. line: aggregates over the shots of a line; None shows the range.
    higher_is_better: true of a throughput.
    """

    name: str
    head: str
    key: str
    source: str
    together: Callable[[Sequence[Value]], Value]
    text: Callable[[float], str]
    title: str
    hint: str
    axis: str
    words: Callable[[float], str]
    sentence: Callable[[str, float], str]
    subject: str
    line: Callable[[Sequence[Value]], Value] | None = None
    higher_is_better: bool = False

    def span(self, values: Sequence[Value]) -> str:
        """One text for a line over its shots, such as `2.10–4.32`; empty if no value is known."""
        chosen = [self.line(values)] if self.line else values
        numbers = [value for value in chosen if value is not None]
        if not numbers:
            return ""
        low, high = self.text(min(numbers)), self.text(max(numbers))
        return low if low == high else f"{low}–{high}"


def count(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds with about three digits."""
    return fixed(value, 2) if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def duration(value: float) -> str:
    """Seconds, minutes or hours, with about two or three digits."""
    if value < MINUTE:
        return f"{fixed(value, 2)} s" if value < 10 else f"{value:.1f} s"
    if value < HOUR:
        return f"{value / MINUTE:.1f} min"
    return f"{value / HOUR:.1f} h"


def with_prefix(value: float) -> str:
    """A number with the prefix of a unit behind it: `512 `, `184.3 k`, `8.2 M`."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 is 1.0 M, not 1000.0 k.
        if value >= size * (1 - 5e-5):
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} "


def parameters(value: float) -> str:
    """A number of parameters: 512, 184.3 k, 8.2 M."""
    return with_prefix(value).strip()


def megabytes(value: float) -> str:
    """Memory in MB or GB (powers of 1,000)."""
    return f"{value / 1000:.2f} GB" if value >= 1000 else f"{value:.0f} MB"


TRAINED = Cost(
    name="trained",
    head="trained",
    key="trained_params",
    source="footprint.trained",
    together=mean_of,
    text=count,
    title="trained",
    hint="parameters that the optimizer was seen to train",
    axis="trained parameters",
    words=parameters,
    sentence=lambda words, value: f"trains {words if value else 'no'} parameters",
    subject="trained parameters",
)
BILLED = Cost(
    name="billed",
    head="billed s",
    key="billed_seconds",
    source="timings.billed_seconds",
    together=mean_of,
    text=seconds,
    title="time",
    hint="of a run, a mean; what a cache saved is added again (billed time)",
    axis="billed time of a run, s",
    words=duration,
    sentence=lambda words, _: f"takes {words}",
    subject="time",
)
PEAK = Cost(
    name="peak",
    head="peak MB",
    key="peak_memory_mb",
    source="footprint.peak_memory_mb",
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
TRAINING = Cost(
    name="training",
    head="training s",
    key="training_seconds",
    source="training seconds",
    together=mean_of,
    text=seconds,
    title="training time",
    hint="of a fit with its encoded images and texts, a mean (billed time)",
    axis="billed time of a fit, s",
    words=duration,
    sentence=lambda words, _: f"trains for {words}",
    subject="training time",
)
FLOPS = Cost(
    name="flops",
    head="TFLOPs",
    key="flops",
    source="footprint.work.billed.flops",
    together=mean_of,
    text=lambda value: fixed(value / 1e12, 3),
    title="FLOPs",
    hint="of the encoders in a run, a mean (billed)",
    axis="billed FLOPs of the encoders",
    words=parameters,
    sentence=lambda words, _: f"takes {words}FLOPs of the encoders",
    subject="FLOPs",
)
ENERGY = Cost(
    name="energy",
    head="energy kJ",
    key="joules",
    source="joules",
    together=mean_of,
    text=lambda value: fixed(value / 1e3, 2),
    title="energy",
    hint="of the card in a run, a mean",
    axis="energy of a run, J",
    words=lambda value: f"{with_prefix(value)}J",
    sentence=lambda words, _: f"takes {words}",
    subject="energy",
)
LATENCY = Cost(
    name="latency",
    head="ms/query",
    key="latency_ms",
    source="latency",
    together=mean_of,
    text=seconds,
    title="latency",
    hint="of an answer with its encoded image, a mean over queries in batches (billed time)",
    axis="billed time per query, ms",
    words=lambda value: f"{seconds(value)} ms",
    sentence=lambda words, _: f"answers a query in {words}",
    subject="latency",
)
MOVED = Cost(
    name="moved",
    head="moved %",
    key="moved",
    source="footprint.moved",
    together=mean_of,
    text=lambda value: f"{100 * value:.0f}",
    title="moved",
    hint="answers that other companions of a query change, of those asked again",
    axis="answers that companions change",
    words=lambda value: f"{100 * value:.0f} %",
    sentence=lambda words, _: f"answers {words} otherwise in other company",
    subject="answers that companions change",
)
ENCODED = Cost(
    name="encoded",
    head="encoded/query",
    key="encoded_per_query",
    source="footprint.encoded_per_query",
    together=mean_of,
    text=lambda value: fixed(value, 1),
    title="encoded",
    hint="images encoded for the answer to a query, a mean",
    axis="images encoded per query",
    words=lambda value: f"{fixed(value, 1)} images",
    sentence=lambda words, _: f"encodes {words} per query",
    subject="images encoded per query",
)
COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (TRAINED, BILLED, PEAK)}
MORE_COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (TRAINING, LATENCY, FLOPS, ENERGY)}
# Shown by name alone: of most methods they are 0, or 1 image.
RARE_COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (MOVED, ENCODED)}


def every_cost() -> Mapping[str, Cost]:
    """All costs by name."""
    return {**COSTS, **MORE_COSTS, **RARE_COSTS}


def costs_of(layout: str, *names: str | None) -> Mapping[str, Cost]:
    """The costs to read: all of them for a layout of costs, or if one of the lists names another.

    names: comma lists of columns.
    """
    asked = {name.strip() for text in names for name in (text or "").split(",")}
    return every_cost() if layout == "costs" or asked & (every_cost().keys() - COSTS) else COSTS
