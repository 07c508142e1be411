"""Columns beside the main metric, and the order of lines.

A `Cost` says where it stands in records, how it is aggregated over seeds and data sets, and its
texts and heads. `COSTS` holds all of them, in the order of tables; a new one is added only here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.filters import split_list
from fewshot_bench.analysis.table.table import Cell, Group, Row, Table
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError, unknown
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
    """One cost of a cell; lower is better.

    name: in `--columns` and `--sort`. head: column head in text tables. key: column in CSV and
    JSON. source: the entry of records. together: aggregates over seeds and over
    data sets. text: formats a value for text tables, without unit. title, hint: head in the
    report's leaderboard. axis: axis label of its figure, with unit. words: formats a value with
    unit. sentence: phrase about a method with this cost ("takes 3 s"). subject: name of the cost in
    a sentence. line: aggregates over the shots of a line; None shows the range.
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


def parameters(value: float) -> str:
    """A number of parameters: 512, 184.3 k, 8.2 M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,950 is 1.0 M, not 1000.0 k.
        if value >= size * (1 - 5e-5):
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f}"


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
COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (TRAINED, BILLED, PEAK)}


# Facts of methods that a column can show, by its title.
FACTS: Mapping[str, Callable[[Record], str]] = {
    "schedule": lambda record: record.schedule,
    "text knowledge": lambda record: str(record.card.get("text") or ""),
}


def facts_of(names: str | None, records: Iterable[Record]) -> dict[str, str]:
    """The facts named in the comma list of columns, distinct values over these records joined."""
    asked = [title for title in FACTS if title in split_list(names or "", FACTS)]
    if not asked:
        return {}
    own = list(records)
    texts = {title: dict.fromkeys(map(FACTS[title], own)) for title in asked}
    return {title: "; ".join(filter(None, parts)) for title, parts in texts.items()}


CURVE = "curve"
_BLOCKS = "▁▂▃▄▅▆▇█"
_NO_VALUE = "·"


def check_columns(text: str | None, titles: Iterable[str]) -> tuple[str, ...] | None:
    """The names in a comma list; None without a list. UsageError for an unknown name.

    titles: the names of metrics and of the plug-ins' columns.
    """
    if text is None:
        return None
    every = {*COSTS, CURVE, *FACTS, *titles}
    names = split_list(text, every)
    for name in names:
        if name not in every:
            raise unknown("column", name, every, "fsbench compare --help")
    if not names:
        raise UsageError(f"no column in '{text}'; expected a comma list of {', '.join(every)}")
    return tuple(dict.fromkeys(names))


def metric_columns(table: Table) -> list[str]:
    """Metrics shown beside the main one, each with a column per number of shots."""
    return [name for name in table.columns or () if name in table.metrics and name != table.metric]


def text_columns(table: Table, titles: Sequence[str], curves: bool) -> list[str]:
    """Columns with one text per line: by default the costs and the plug-ins' titles.

    curves: whether the default includes learning curves.
    """
    if table.columns is not None:
        return [name for name in table.columns if name not in table.metrics]
    return [*([CURVE] if curves else []), *COSTS, *titles]


def sort_rows(table: Table, group: Group, shots: int | None = None) -> list[Row]:
    """The rows of a group's table, best first if the table has a sort key.

    Sorts by a metric at `shots` (None: the largest number of shots that has a value), or by the
    largest cost. Rows without a value come last.
    """
    if not table.sort:
        return list(table.rows)
    by_metric = table.metrics.get(table.sort)

    def key(row: Row) -> tuple[bool, float]:
        line = table.line(group, row) if shots is None else [table.cell(group, row, shots)]
        values = _values(table, line)
        if not values:
            return True, 0.0
        value = values[-1] if by_metric else max(values)
        return False, -value if by_metric and by_metric.higher_is_better else value

    return sorted(table.rows, key=key)


def _values(table: Table, cells: Sequence[Cell]) -> list[float]:
    """Values by which the cells of a line are sorted."""
    name = table.sort
    if name in table.metrics:
        return [cell.estimates[name].mean for cell in cells if name in cell.estimates]
    return [value for cell in cells if (value := cell.costs.get(name)) is not None]


def curve_head(table: Table, group: Group) -> str:
    """Head `curve` with the values of its lowest and highest block."""
    values = _curve_values(table, group)
    if not values:
        return CURVE
    write = table.main.text
    return f"{CURVE} {write(min(values))}–{write(max(values))}"


def curve(table: Table, group: Group, row: Row) -> str:
    """A block character per number of shots above zero; all lines of a group share one scale."""
    values = _curve_values(table, group)
    cells = [table.cell(group, row, shots) for shots in group.shots if shots]
    if not any(table.metric in cell.estimates for cell in cells):
        return ""
    low, high = min(values), max(values)
    return "".join(_block(cell, table.metric, low, high) for cell in cells)


def has_curve(table: Table, group: Group) -> bool:
    """True when at least two numbers of shots above zero have values."""
    shots = [
        number
        for number in group.shots
        if number and any(table.metric in cell.estimates for cell in _cells(table, group, [number]))
    ]
    return len(shots) > 1


def _cells(table: Table, group: Group, shots: Iterable[int]) -> list[Cell]:
    return [table.cell(group, row, number) for number in shots for row in table.rows]


def _curve_values(table: Table, group: Group) -> list[float]:
    cells = _cells(table, group, [number for number in group.shots if number])
    return [cell.estimates[table.metric].mean for cell in cells if table.metric in cell.estimates]


def _block(cell: Cell, metric: str, low: float, high: float) -> str:
    if metric not in cell.estimates:
        return _NO_VALUE
    share = (cell.estimates[metric].mean - low) / (high - low) if high > low else 0.5
    return _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)]
