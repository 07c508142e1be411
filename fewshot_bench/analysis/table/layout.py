"""The grids of a table: values of every group, then differences and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Document,
    Entry,
    Grid,
    Line,
)
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.columns import (
    CURVE,
    curve,
    curve_head,
    has_curve,
    metric_columns,
    sorted_rows,
    text_columns,
)
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.analysis.table.evidence import evidence
from fewshot_bench.analysis.table.model import Cell, Group, Row, Table
from fewshot_bench.api.metrics import Metric
from fewshot_bench.utils.text import signed

# Commands that a screen shows; others are counted.
COMMANDS = 8


def document(table: Table, form: str) -> Document:
    """The table for a format of `formats.render`; screens show curves and fewer commands."""
    if form in ("csv", "json"):
        from fewshot_bench.analysis.table.export import FIRST, meta, rows

        found = rows(table)
        return Document(rows=found, heads=FIRST, data={"meta": meta(table), "rows": found})
    screen = form in ("terminal", "html")
    notes, commands = closing(table, COMMANDS if screen else None)
    shown = list(grids(table, curves=screen))
    return Document.of(shown, notes, commands, table.signatures.get("", ""))


def grids(table: Table, *, curves: bool = False) -> Iterator[Grid]:
    """A grid per group, averages only where there are several, then those of differences.

    curves: whether learning curves stand in them where no columns were asked for.
    """
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        yield _values(table, group, curves)
    if table.baseline is not None:
        for group in groups:
            yield _differences(table, group)
    yield from evidence(table)


def _values(table: Table, group: Group, curves: bool) -> Grid:
    usual = _usual_n(table, group)
    metrics = [table.metric, *metric_columns(table)]
    rows = sorted_rows(table, group)
    entries = [
        ranked_column(table, group, rows, shots, usual, name)
        for name in metrics
        for shots in group.shots
    ]
    titles = _extra_titles(table, group)
    texts = text_columns(table, titles, curves and has_curve(table, group))
    lines = [
        Line(
            row.title,
            tuple(column[index] for column in entries),
            tuple(_texts(table, group, row, texts)),
        )
        for index, row in enumerate(rows)
    ]
    heads = [head for name in metrics for head in _heads(table, group, name)]
    sides = [_text_head(table, group, name) for name in texts]
    caption = _caption(table, usual, metrics)
    return Grid(
        group.name,
        caption,
        tuple(heads),
        tuple(sides),
        tuple(lines),
        _footer(table, group),
        signature=table.signatures.get(group.label, ""),
    )


def _caption(table: Table, usual: int, metrics: Sequence[str]) -> str:
    main = table.main
    seeds = f"n = {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    interval = "" if usual == 1 else " (range)" if usual == 2 else " ± 95 % t-interval"
    more = "".join(f"; {table.metrics[name].quantity}" for name in metrics[1:])
    return f"{main.quantity}, mean{interval}, {seeds}{more}{marks(table)}"


def _texts(table: Table, group: Group, row: Row, names: Sequence[str]) -> Iterator[str]:
    """The columns of a line that hold one text each."""
    cells, nothing = table.line(group, row), _nothing(table, group, row)
    extra = table.row_extra.get((group.label, row.label), {})
    for name in names:
        if name == CURVE:
            yield curve(table, group, row)
        elif name in COSTS:
            yield COSTS[name].shown([cell.costs.get(name) for cell in cells]) or nothing
        else:
            yield str(extra.get(name, nothing))


def _text_head(table: Table, group: Group, name: str) -> str:
    if name == CURVE:
        return curve_head(table, group)
    return COSTS[name].head if name in COSTS else name


def _differences(table: Table, group: Group) -> Grid:
    metric = table.main
    lines = []
    for row in sorted_rows(table, group):
        if row.label != table.baseline:
            entries = (difference(table, cell, metric) for cell in table.line(group, row))
            lines.append(Line(row.title, tuple(entries), ()))
    caption = (
        f"difference to {table.baseline} in {metric.difference}, paired over seeds "
        f"on identical splits{stars(table)}{marks(table)}"
    )
    heads = _heads(table, group, table.metric)
    return Grid(group.name, caption, heads, (), tuple(lines), _footer(table, group))


def stars(table: Table) -> str:
    """What the star beside a difference means, for its caption."""
    tested = table.significance is not None and table.significance.contrasts
    return "; * p < 0.05, paired over test images too, after Holm's correction" if tested else ""


def _footer(table: Table, group: Group) -> str:
    return table.signature(group.seeds)


def marks(table: Table) -> str:
    """What a reader must know before comparing, for a caption."""
    marks = sorted({mark for row in table.rows for mark in row.marks})
    return f"; {'; '.join(marks)}".upper() if marks else ""


def _heads(table: Table, group: Group, name: str) -> tuple[str, ...]:
    """A head per number of shots; beside the main metric with the name of another one."""
    before = "" if name == table.metric else f"{table.metrics[name].short} "
    return tuple(f"{before}{shots}-shot" for shots in group.shots)


def _usual_n(table: Table, group: Group) -> int:
    """The number of seeds that most cells of the grid have; others show theirs."""
    cells = [cell for row in table.rows for cell in table.line(group, row)]
    counts = [cell.estimates[table.metric].n for cell in cells if table.metric in cell.estimates]
    return max(sorted(set(counts), reverse=True), key=counts.count, default=0)


def ranked_column(
    table: Table, group: Group, rows: Sequence[Row], shots: int, usual: int, name: str
) -> list[Entry]:
    """One metric at one number of shots, the best and second ranked as they are shown."""
    metric = table.metrics[name]
    cells = [table.cell(group, row, shots) for row in rows]
    values = [cell.estimates.get(name) for cell in cells]
    shown = [metric.text(value.mean) if value else "" for value in values]
    distinct = {float(text) for text in shown if text}
    ranked = sorted(distinct, reverse=metric.higher_is_better)
    several = sum(bool(text) for text in shown) > 1
    entries = []
    for cell, value, text in zip(cells, values, shown, strict=True):
        if value is None and group.scope == "H" and not metric.higher_is_better:
            entries.append(Entry(INAPPLICABLE))
            continue
        rank = ranked.index(float(text)) + 1 if text and several else 0
        rank = rank if rank in (BEST, SECOND) else 0
        entries.append(_entry(cell, value, usual, rank, metric))
    return entries


def _entry(cell: Cell, value: Estimate | None, usual: int, rank: int, metric: Metric) -> Entry:
    if value is None:
        return _without_number(cell)
    special = value.n != usual or value.n == 1 or cell.failed > 0
    parts = [f"n={value.n}"] if special else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    suffix = f"({', '.join(parts)})" if parts else ""
    short = " ".join([*parts[:1], *(["!"] if cell.failed else [])])
    return Entry(metric.text(value.mean), value.around(metric.digits), suffix, rank, short)


def _without_number(cell: Cell) -> Entry:
    if cell.status == "inapplicable":
        return Entry(INAPPLICABLE)
    if cell.status == "failed":
        return Entry("failed", suffix=f"x{cell.failed}", short=f"x{cell.failed}")
    return Entry(MISSING if cell.expected else "")


def difference(table: Table, cell: Cell, metric: Metric) -> Entry:
    """The difference of a cell to the baseline's."""
    if cell.no_delta:
        return Entry(INAPPLICABLE)
    if cell.delta is None:
        return Entry(MISSING if cell.expected else "")
    contrast = table.significance.of(cell) if table.significance else None
    star = "*" if contrast is not None and contrast.significant else ""
    suffix = f"(n={cell.delta.n}){star}"
    short = f"n={cell.delta.n}{star}"
    mean = signed(cell.delta.mean, metric.digits)
    return Entry(mean, cell.delta.around(metric.digits, sign=True), suffix, short=short)


def _nothing(table: Table, group: Group, row: Row) -> str:
    """What stands for a number in a line that has none, or not this one."""
    expected = [cell for cell in table.line(group, row) if cell.expected]
    inapplicable = expected and all(cell.status == "inapplicable" for cell in expected)
    return INAPPLICABLE if inapplicable else MISSING


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
