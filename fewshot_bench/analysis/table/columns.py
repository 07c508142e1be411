"""What stands beside the main metric in a table, and in which order its lines stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fewshot_bench.analysis.filters import split_list
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.model import Cell, Group, Row, Table
from fewshot_bench.utils.errors import UsageError, unknown

CURVE = "curve"
_BLOCKS = "▁▂▃▄▅▆▇█"
_NO_VALUE = "·"


def check_columns(text: str | None, titles: Iterable[str]) -> tuple[str, ...] | None:
    """The names in a comma list; None where nothing was asked. UsageError for an unknown one.

    titles: the names of metrics and of the plug-ins' columns.
    """
    if text is None:
        return None
    known = {*COSTS, CURVE, *titles}
    names = split_list(text, known)
    for name in names:
        if name not in known:
            raise unknown("column", name, known, "fsbench compare --help")
    if not names:
        raise UsageError(f"no column in '{text}'; expected a comma list of {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def metric_columns(table: Table) -> list[str]:
    """The metrics that stand beside the main one, a column for every number of shots each."""
    return [name for name in table.columns or () if name in table.metrics and name != table.metric]


def text_columns(table: Table, titles: Sequence[str], curves: bool) -> list[str]:
    """The columns of one text per line: by default the costs and the plug-ins' titles.

    curves: whether learning curves belong to the default.
    """
    if table.columns is not None:
        return [name for name in table.columns if name not in table.metrics]
    return [*([CURVE] if curves else []), *COSTS, *titles]


def sorted_rows(table: Table, group: Group, shots: int | None = None) -> list[Row]:
    """The rows of a group's table: as they are, or the best first of what was asked for.

    Of a metric the value at these or the most shots counts, of a cost the largest. Rows without
    come last.
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
    """What the cells of a line are sorted by."""
    name = table.sort
    if name in table.metrics:
        return [cell.estimates[name].mean for cell in cells if name in cell.estimates]
    return [value for cell in cells if (value := cell.costs.get(name)) is not None]


def curve_head(table: Table, group: Group) -> str:
    """`curve`, with the values that its lowest and highest block stand for."""
    values = _curve_values(table, group)
    if not values:
        return CURVE
    write = table.main.text
    return f"{CURVE} {write(min(values))}–{write(max(values))}"


def curve(table: Table, group: Group, row: Row) -> str:
    """A block per number of shots above zero, all lines of a group on one scale."""
    values = _curve_values(table, group)
    cells = [table.cell(group, row, shots) for shots in group.shots if shots]
    if not any(table.metric in cell.estimates for cell in cells):
        return ""
    low, high = min(values), max(values)
    return "".join(_block(cell, table.metric, low, high) for cell in cells)


def has_curve(table: Table, group: Group) -> bool:
    """Whether there are numbers of shots to draw a curve over, and values at two of them."""
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
