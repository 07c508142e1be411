"""Grids of text: what the terminal, Markdown and LaTeX show, before any markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fewshot_bench.compare.model import METRICS, Cell, Group, Row, Table
from fewshot_bench.compare.statistics import Estimate

MISSING = "—"
INAPPLICABLE = "n/a"
BEST, SECOND = 1, 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One number as text; `rank` is BEST, SECOND or 0, `suffix` says what is special about it,
    `short` says the same where there is little room.
    """

    mean: str
    half: str | None = None
    suffix: str = ""
    rank: int = 0
    short: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One method in a grid: its entries per number of shots, its costs, and extra columns."""

    title: str
    entries: tuple[Entry, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table on the page: a group's values, or its differences to the baseline."""

    name: str
    caption: str
    shots: tuple[str, ...]
    costs: tuple[str, ...]
    lines: tuple[Line, ...]
    footer: str


def grids(table: Table) -> Iterator[Grid]:
    """A grid per group, averages only where there are several, then those of differences."""
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        yield _values(table, group)
    if table.baseline is not None:
        for group in groups:
            yield _differences(table, group)


def _values(table: Table, group: Group) -> Grid:
    usual = _usual_n(table, group)
    columns = [_column(table, group, shots, usual) for shots in group.shots]
    extras = _extra_titles(table, group)
    lines = []
    for index, row in enumerate(table.rows):
        nothing = _nothing(table, group, row)
        extra = table.row_extra.get((group.label, row.label), {})
        more = [str(extra.get(title, nothing)) for title in extras]
        entries = tuple(column[index] for column in columns)
        lines.append(Line(row.title, entries, (*_costs(table, group, row), *more)))
    seeds = f"n = {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    interval = "" if usual == 1 else " ± 95 % t-interval"
    caption = f"{METRICS[table.metric]} in %, mean{interval}, {seeds}{_marks(table)}"
    heads = ("trained", "billed s", "peak MB", *extras)
    return Grid(group.label, caption, _heads(group), heads, tuple(lines), _footer(table, group))


def _differences(table: Table, group: Group) -> Grid:
    lines = []
    for row in table.rows:
        if row.label != table.baseline:
            entries = map(_difference, table.line(group, row))
            lines.append(Line(row.title, tuple(entries), ()))
    caption = (
        f"difference to {table.baseline} in points of {METRICS[table.metric]}, paired over seeds "
        f"on identical splits{_marks(table)}"
    )
    return Grid(group.label, caption, _heads(group), (), tuple(lines), _footer(table, group))


def _footer(table: Table, group: Group) -> str:
    return table.signature(group.seeds)


def _marks(table: Table) -> str:
    marks = sorted({mark for row in table.rows for mark in row.marks})
    return f"; {'; '.join(marks)}".upper() if marks else ""


def _heads(group: Group) -> tuple[str, ...]:
    return tuple(f"{shots}-shot" for shots in group.shots)


def _usual_n(table: Table, group: Group) -> int:
    """The number of seeds that most cells of the grid have; others show theirs."""
    cells = [cell for row in table.rows for cell in table.line(group, row)]
    counts = [cell.estimates[table.metric].n for cell in cells if table.metric in cell.estimates]
    return max(sorted(set(counts), reverse=True), key=counts.count, default=0)


def _column(table: Table, group: Group, shots: int, usual: int) -> list[Entry]:
    cells = [table.cell(group, row, shots) for row in table.rows]
    values = [cell.estimates.get(table.metric) for cell in cells]
    shown = [_fixed(value.mean) if value else "" for value in values]
    ranked = sorted({float(text) for text in shown if text}, reverse=True)
    several = sum(bool(text) for text in shown) > 1
    entries = []
    for cell, value, text in zip(cells, values, shown, strict=True):
        rank = ranked.index(float(text)) + 1 if text and several else 0
        entries.append(_entry(cell, value, usual, rank if rank in (BEST, SECOND) else 0))
    return entries


def _entry(cell: Cell, value: Estimate | None, usual: int, rank: int) -> Entry:
    if value is None:
        return _without_number(cell)
    special = value.n != usual or value.n == 1 or cell.failed > 0
    parts = [f"n={value.n}"] if special else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    suffix = f"({', '.join(parts)})" if parts else ""
    short = " ".join([*parts[:1], *(["!"] if cell.failed else [])])
    return Entry(_fixed(value.mean), _half(value), suffix, rank, short)


def _without_number(cell: Cell) -> Entry:
    if cell.status == "inapplicable":
        return Entry(INAPPLICABLE)
    if cell.status == "failed":
        return Entry("failed", suffix=f"x{cell.failed}", short=f"x{cell.failed}")
    return Entry(MISSING if cell.expected else "")


def _difference(cell: Cell) -> Entry:
    if cell.no_delta:
        return Entry(INAPPLICABLE)
    if cell.delta is None:
        return Entry(MISSING if cell.expected else "")
    suffix = f"(n={cell.delta.n})"
    short = f"n={cell.delta.n}"
    return Entry(f"{cell.delta.mean:+.2f}", _half(cell.delta), suffix, short=short)


def _fixed(value: float) -> str:
    return f"{value:.2f}"


def _half(value: Estimate) -> str | None:
    return None if value.half is None else _fixed(value.half)


def _nothing(table: Table, group: Group, row: Row) -> str:
    """What stands for a number in a line that has none, or not this one."""
    expected = [cell for cell in table.line(group, row) if cell.expected]
    inapplicable = expected and all(cell.status == "inapplicable" for cell in expected)
    return INAPPLICABLE if inapplicable else MISSING


def _costs(table: Table, group: Group, row: Row) -> tuple[str, str, str]:
    """Costs over the shots of a line: one number, or the range from the least to the most."""
    cells, nothing = table.line(group, row), _nothing(table, group, row)
    memory = max((cell.memory for cell in cells if cell.memory is not None), default=None)
    return (
        _range([cell.trained for cell in cells], count) or nothing,
        _range([cell.billed for cell in cells], seconds) or nothing,
        nothing if memory is None else count(memory),
    )


def _range(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = write(min(known)), write(max(known))
    return low if low == high else f"{low}–{high}"


def count(value: float) -> str:
    """A count with thousands separated."""
    return f"{value:,.0f}"


def seconds(value: float) -> str:
    """Seconds with about three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _extra_titles(table: Table, group: Group) -> list[str]:
    found = [table.row_extra.get((group.label, row.label), {}) for row in table.rows]
    return list(dict.fromkeys(title for extra in found for title in extra))


def closing(table: Table, limit: int | None = None) -> tuple[list[str], list[str]]:
    """Notes, and the commands that would run what is missing (at most `limit`, then a count)."""
    notes = list(table.notes)
    shown = list(table.commands[:limit])
    hidden = len(table.commands) - len(shown)
    if hidden:
        notes.append(f"{hidden} more commands for missing cells in --format json")
    return notes, shown
