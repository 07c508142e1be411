"""The layouts of a table; `lay_out` is the entry. A layout is a function and a name in `LAYOUTS`.

`compact`: methods in rows, data sets in columns, the average last, a grid per number of shots; a
kind of evaluation with one data set is one grid, with the numbers of shots in columns. `full`: the
latter for every data set, with costs. `paper`: the grids of the compact one, with means alone, as
papers print them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from fewshot_bench.analysis.formats.document import Document, Entry, Grid, Item, Line, Section
from fewshot_bench.analysis.sweep import panels as sweep
from fewshot_bench.analysis.sweep.panels import SweepOptions
from fewshot_bench.analysis.table.columns import (
    has_curve,
    metric_columns,
    sort_rows,
    text_columns,
)
from fewshot_bench.analysis.table.grids import (
    COMMANDS,
    SCREENS,
    Block,
    close,
    difference_grid,
    evidence,
    marks,
    most_common,
    value_grid,
)
from fewshot_bench.analysis.table.notes import RANGES
from fewshot_bench.analysis.table.table import AVERAGE, Group, Scope, Table
from fewshot_bench.utils.text import counted

# What each shows, in the words of help texts.
LAYOUTS = {
    "compact": "methods x data sets, a table per shots",
    "full": "a table per data set, with costs",
    "paper": "compact without intervals",
    "sweep": "one method over its options",
}
DEFAULT = "compact"
DATA = ("csv", "json")
# Columns of CSV before and behind those of the data sets.
_FIRST = ("shots", "part", "fitted_on", "method")
_LAST = ("n_seeds", "other_seeds")
_SCOPES: dict[Scope, str] = {
    "all": "",
    "base": ", base classes",
    "new": ", new classes",
    "H": ", harmonic mean of base and new classes",
    "transfer": ", transfer",
}
# What a caption says of a grid without room for more.
_LESS = "; intervals of data sets: --layout full"


def lay_out(
    table: Table,
    form: str,
    name: str = DEFAULT,
    caption: str = "",
    options: SweepOptions | None = None,
) -> Document:
    """The table as a document for a format, in the layout of this name.

    caption: of `paper`. options: of `sweep`. CSV and JSON hold all numbers in every layout, except
    for the CSV of `paper`, and for `sweep`, which has the metric that it shows.
    """
    if name == "sweep":
        return sweep.document(sweep.sweep_of(table, options or SweepOptions()), form)
    if name == "paper":
        return paper(table, form, caption)
    if form in DATA:
        from fewshot_bench.analysis.table.export import FIRST, meta, rows

        lines = rows(table)
        return Document(rows=lines, heads=FIRST, data={"meta": meta(table), "rows": lines})
    is_screen = form in SCREENS
    grids = full(table, curves=is_screen) if name == "full" else compact(table)
    notes, commands = close(table, COMMANDS if is_screen else None)
    sections = (Section(grids=list(grids)),)
    return Document(sections, notes, commands, table.signatures.get("", ""))


def full(table: Table, *, curves: bool = False) -> Iterator[Grid]:
    """A value grid per group (averages only over several groups), then differences and evidence.

    curves: whether learning curves belong to the default columns.
    """
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        extra = [table.row_extra.get((group.label, row.label), {}) for row in table.rows]
        titles = list(dict.fromkeys(title for own in extra for title in own))
        texts = text_columns(table, titles, curves and has_curve(table, group))
        yield _group_values(table, group, texts)
    if table.baseline is not None:
        for group in groups:
            yield difference_grid(table, _group_block(table, group))
    yield from evidence(table)


def _group_values(table: Table, group: Group, texts: Sequence[str]) -> Grid:
    metrics = [table.metric, *metric_columns(table)]
    grid = value_grid(table, _group_block(table, group), metrics, texts)
    return replace(grid, signature=table.signatures.get(group.label, ""))


def _group_block(table: Table, group: Group) -> Block:
    """One group, with a column per number of shots."""
    heads = tuple(f"{shots}-shot" for shots in group.shots)
    columns = tuple((group, shots) for shots in group.shots)
    return Block(group.name, heads, columns, tuple(sort_rows(table, group)))


def blocks(table: Table) -> Iterator[Block]:
    """One block per number of shots and kind of evaluation; transfers: one per source data set."""
    for shots in table.shots:
        for scope in _SCOPES:
            members = [g for g in table.groups if g.scope == scope and shots in g.shots]
            plain = [group for group in members if not group.average]
            is_transfer = scope == "transfer"
            for source in dict.fromkeys(g.dataset if is_transfer else "" for g in plain):
                own = [group for group in plain if source in ("", group.dataset)]
                means = [g for g in members if g.average and len(table.members(g)) > 1]
                means = [g for g in means if set(table.members(g)) == set(own)]
                yield _block(table, shots, scope, [*own, *means[:1]], source)


def _block(table: Table, shots: int, scope: Scope, groups: Sequence[Group], source: str) -> Block:
    """Groups side by side at one number of shots, with the rows that expect a cell there."""
    source = table.renamed.get(source, source)
    names = [AVERAGE if g.average else g.target or g.dataset for g in groups]
    heads = tuple(
        # The kind of evaluation is in the title of the block.
        table.renamed.get(group.label) or table.renamed.get(name, name)
        for group, name in zip(groups, names, strict=True)
    )
    rows = (
        row
        for row in sort_rows(table, groups[-1], shots)
        if any(table.cell(group, row, shots).expected for group in groups)
    )
    return Block(
        f"{shots}-shot{_SCOPES[scope]}{f' from {source}' if source else ''}",
        heads,
        tuple((group, shots) for group in groups),
        tuple(rows),
        scope,
        source,
    )


def compact(table: Table) -> Iterator[Grid]:
    """Values of every kind of evaluation, then differences to the baseline, then evidence."""
    kinds: defaultdict[tuple[Scope, str], list[Block]] = defaultdict(list)
    for block in blocks(table):
        kinds[block.scope, block.source].append(block)
    order = list(_SCOPES)
    parts = [kinds[key] for key in sorted(kinds, key=lambda key: order.index(key[0]))]
    # This layout has no columns of texts by default.
    texts = [] if table.columns is None else text_columns(table, (), curves=False)
    for part in parts:
        if group := _the_only_group(part):
            yield _group_values(table, group, texts)
            continue
        for block in part:
            for name in (table.metric, *metric_columns(table)):
                own = texts if name == table.metric else []
                grid = value_grid(table, block, [name], own, _drop_said)
                yield _narrow(_sign(table, grid))
    for part in parts if table.baseline is not None else ():
        if group := _the_only_group(part):
            yield difference_grid(table, _group_block(table, group))
        else:
            yield from (_narrow(_sign(table, _differences(table, block))) for block in part)
    yield from evidence(table)


def _the_only_group(part: Sequence[Block]) -> Group | None:
    groups = {group for block in part for group, _ in block.columns}
    return groups.pop() if len(groups) == 1 else None


def _sign(table: Table, grid: Grid) -> Grid:
    return replace(grid, signature=table.signatures.get("", ""))


def _drop_said(entry: Entry, usual: int) -> Entry:
    """The entry without `n=1`, if the caption gives it."""
    return replace(entry, suffix="", short="") if usual == 1 and entry.short == "n=1" else entry


def _differences(table: Table, block: Block) -> Grid:
    rows = [row for row in block.rows if row.label != table.baseline]
    deltas = [cell.delta for row in rows for cell in block.cells(table, row)]
    usual = most_common([delta.n for delta in deltas if delta is not None])
    grid = difference_grid(table, block, usual)
    seeds = f", n = {counted(usual, 'seed')}" if usual else ""
    return replace(grid, name=f"{grid.name}, differences", caption=f"{grid.caption}{seeds}")


def _narrow(grid: Grid) -> Grid:
    """The grid, which a narrow screen shows without the intervals of all but the last column."""
    count = sum(column.kind == "value" for column in grid.columns) - 1
    if not any(entry.around for line in grid.lines for entry in line.entries[:count]):
        return grid
    lines = []
    for line in grid.lines:
        less = (replace(entry, around="") for entry in line.entries[:count])
        lines.append(Line(line.title, (*less, *line.entries[count:])))
    return replace(grid, narrow=replace(grid, caption=grid.caption + _LESS, lines=tuple(lines)))


def paper(table: Table, form: str, caption: str = "") -> Document:
    """The table in the paper layout; the terminal shows fewer commands."""
    if form == "csv":
        return Document(rows=paper_rows(table), heads=(*_FIRST, *_LAST))
    notes, commands = close(table, COMMANDS if form == "terminal" else None)
    # This layout shows neither intervals nor ranges.
    notes = [note for note in notes if note not in RANGES]
    head = [Section(items=[Item(caption)])] if caption else []
    sections = (*head, Section(grids=list(_paper_grids(table))))
    return Document(sections, notes, commands, table.signatures.get("", ""))


def _paper_grids(table: Table) -> Iterator[Grid]:
    """A grid of means per block, then grids of differences to the baseline, then evidence."""
    parts = list(blocks(table))
    for block in parts:
        usual = block.usual_n(table, table.metric)
        seeds = f"mean over {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
        # The caption gives the number of seeds; cells with another number show theirs.
        grid = value_grid(table, block, [table.metric], finish=_drop_around)
        caption = f"{table.main.quantity}, {seeds}{marks(table)}"
        yield _sign(table, replace(grid, caption=caption))
    for block in parts if table.baseline is not None else ():
        grid = difference_grid(table, block, finish=_drop_around)
        # Another name than that of the values, as a caption or a label may end with it.
        yield _sign(table, replace(grid, name=f"{block.title}, differences"))
    yield from evidence(table)


def _drop_around(entry: Entry, usual: int) -> Entry:
    return _drop_said(replace(entry, around=""), usual)


def paper_rows(table: Table) -> list[dict[str, Any]]:
    """The means of the grids as tidy rows; None for a cell without one.

    `n_seeds` is the usual number of seeds of the grid, `other_seeds` names cells with another one.
    """
    parts = list(blocks(table))
    heads = dict.fromkeys(head for block in parts for head in _csv_heads(block))
    rows = []
    for block in parts:
        usual = block.usual_n(table, table.metric)
        shots = block.columns[0][1]
        for row in block.rows:
            cells = zip(_csv_heads(block), block.cells(table, row), strict=True)
            means = {
                head: cell.estimates[table.metric]
                for head, cell in cells
                if table.metric in cell.estimates
            }
            first = (shots, block.scope, block.source, row.title)
            line: dict[str, Any] = dict(zip(_FIRST, first, strict=True))
            for head in heads:
                line[head] = round(means[head].mean, 6) if head in means else None
            odd = [f"{head} n={mean.n}" for head, mean in means.items() if mean.n != usual]
            rows.append(line | dict(zip(_LAST, (usual, odd), strict=True)))
    return rows


def _csv_heads(block: Block) -> list[str]:
    """CSV columns of a block's groups; a data set of the name of another column gets a prefix."""
    taken = (*_FIRST, *_LAST)
    return [f"dataset_{head}" if head in taken else head for head in block.heads]
