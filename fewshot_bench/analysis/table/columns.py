"""Columns beside the main metric, and the order of lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from fewshot_bench.analysis.filters import split_list
from fewshot_bench.analysis.table.costs import COSTS, every_cost
from fewshot_bench.analysis.table.table import Cell, Group, Row, Table
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError, unknown

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
    every = {*every_cost(), CURVE, *FACTS, *titles}
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
    worst cost. Rows without a value come last.
    """
    if not table.sort:
        return list(table.rows)
    by_metric = table.metrics.get(table.sort)
    about = by_metric or table.costs.get(table.sort)
    higher = about is not None and about.higher_is_better
    # Groups of rows stay together, in their order.
    sections = list(dict.fromkeys(row.group for row in table.rows))

    def key(row: Row) -> tuple[int, bool, float]:
        line = table.line(group, row) if shots is None else [table.cell(group, row, shots)]
        values, section = _values(table, line), sections.index(row.group)
        if not values:
            return section, True, 0.0
        value = values[-1] if by_metric else min(values) if higher else max(values)
        return section, False, -value if higher else value

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
