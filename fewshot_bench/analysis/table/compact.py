"""The compact layout: methods in rows, data sets in columns, the average last, a grid per shots.

A kind of evaluation with one data set is one grid, with the numbers of shots in columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fewshot_bench.analysis.formats.document import Column, Document, Entry, Grid, Line, Section
from fewshot_bench.analysis.table.axes import AVERAGE, Group, Row, Scope
from fewshot_bench.analysis.table.columns import metric_columns, sorted_rows, text_columns
from fewshot_bench.analysis.table.full import (
    COMMANDS,
    SCREENS,
    closing,
    difference,
    difference_caption,
    difference_grid,
    evidence,
    line_texts,
    marks,
    most_common,
    quantity_and_seeds,
    ranked_column,
    text_head,
    usual_n,
    value_grid,
)
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.utils.text import counted

_SCOPES: dict[Scope, str] = {
    "all": "",
    "base": ", base classes",
    "new": ", new classes",
    "H": ", harmonic mean of base and new classes",
    "transfer": ", transfer",
}
# What a caption says of a grid without room for more.
_LESS = "; intervals of data sets: --layout full"


@dataclass(frozen=True, slots=True)
class Block:
    """Groups side by side in one grid, at one number of shots."""

    shots: int
    scope: Scope
    groups: tuple[Group, ...]
    source: str = ""

    @property
    def title(self) -> str:
        """Title such as `4-shot, new classes`."""
        source = f" from {self.source}" if self.source else ""
        return f"{self.shots}-shot{_SCOPES[self.scope]}{source}"


def blocks(table: Table) -> Iterator[Block]:
    """One block per number of shots and kind of evaluation; transfers: one per source data set."""
    for shots in table.shots:
        for scope in _SCOPES:
            members = [g for g in table.groups if g.scope == scope and shots in g.shots]
            plain = [group for group in members if not group.average]
            sources = (
                dict.fromkeys(group.dataset for group in plain) if scope == "transfer" else [""]
            )
            for source in sources:
                own = [group for group in plain if source in ("", group.dataset)]
                means = [
                    group
                    for group in members
                    if group.average
                    and len(table.members(group)) > 1
                    and set(table.members(group)) == set(own)
                ]
                if own:
                    yield Block(shots, scope, (*own, *means[:1]), table.names.of(source))


def block_heads(table: Table, block: Block) -> tuple[str, ...]:
    """Names of the data sets; the kind of evaluation is in the title of the block."""
    return tuple(
        table.names.new.get(group.label)
        or table.names.of(AVERAGE if group.average else group.target or group.dataset)
        for group in block.groups
    )


def block_rows(table: Table, block: Block) -> list[Row]:
    """Rows with an expected cell in this block, sorted by the last column."""
    return [
        row
        for row in sorted_rows(table, block.groups[-1], block.shots)
        if any(table.cell(group, row, block.shots).expected for group in block.groups)
    ]


def block_n(table: Table, block: Block, rows: Sequence[Row], metric: str) -> int:
    """The most common number of seeds in a block."""
    cells = [table.cell(group, row, block.shots) for group in block.groups for row in rows]
    return usual_n(cells, metric)


def without_said(entry: Entry, usual: int) -> Entry:
    """The entry without `n=1`, if the caption gives it."""
    said = usual == 1 and entry.short == "n=1"
    return replace(entry, suffix="", short="") if said else entry


def document(table: Table, form: str) -> Document:
    """The table in the compact layout; screens show fewer commands."""
    notes, commands = closing(table, COMMANDS if form in SCREENS else None)
    sections = (Section(grids=list(grids(table))),)
    return Document(sections, notes, commands, table.signatures.get("", ""))


def grids(table: Table) -> Iterator[Grid]:
    """Values of every kind of evaluation, then differences to the baseline, then evidence."""
    parts: defaultdict[tuple[Scope, str], list[Block]] = defaultdict(list)
    for block in blocks(table):
        parts[block.scope, block.source].append(block)
    order = list(_SCOPES)
    found = [parts[key] for key in sorted(parts, key=lambda key: order.index(key[0]))]
    yield from _laid_out(found, partial(_line_values, table), partial(_values, table))
    if table.baseline is not None:
        yield from _laid_out(found, partial(difference_grid, table), partial(_differences, table))
    yield from evidence(table)


def _laid_out(
    found: Iterable[Sequence[Block]],
    single: Callable[[Group], Grid],
    several: Callable[[Block], Iterable[Grid]],
) -> Iterator[Grid]:
    """The grids of each kind of evaluation: one over all shots if it has a `single` group."""
    for part in found:
        groups = dict.fromkeys(group for block in part for group in block.groups)
        if len(groups) == 1:
            yield single(*groups)
        else:
            yield from (grid for block in part for grid in several(block))


def _asked(table: Table) -> list[str]:
    """The requested columns of texts; this layout has none by default."""
    return [] if table.columns is None else text_columns(table, (), curves=False)


def _line_values(table: Table, group: Group) -> Grid:
    return value_grid(table, group, _asked(table))


def _values(table: Table, block: Block) -> Iterator[Grid]:
    """A grid per metric; the columns of texts are those of the last group, beside the first."""
    rows, last = block_rows(table, block), block.groups[-1]
    for name in (table.metric, *metric_columns(table)):
        metric, usual = table.metrics[name], block_n(table, block, rows, name)
        columns = [
            ranked_column(table, group, rows, block.shots, usual, name) for group in block.groups
        ]
        main = name == table.metric
        texts = _asked(table) if main else []
        grid = Grid(
            block.title if main else f"{block.title}, {metric.short}",
            quantity_and_seeds(metric, usual) + marks(table),
            (
                *map(Column, block_heads(table, block)),
                *Column.sides(*(text_head(table, last, text) for text in texts)),
            ),
            tuple(
                Line(
                    row.title,
                    (
                        *(without_said(column[index], usual) for column in columns),
                        *map(Entry, line_texts(table, last, row, texts, [block.shots])),
                    ),
                )
                for index, row in enumerate(rows)
            ),
            table.signature(last.seeds),
            signature=table.signatures.get("", ""),
        )
        yield _narrowed(grid)


def _differences(table: Table, block: Block) -> Iterator[Grid]:
    rows = [row for row in block_rows(table, block) if row.label != table.baseline]
    lines = [[table.cell(group, row, block.shots) for group in block.groups] for row in rows]
    counts = [cell.delta.n for line in lines for cell in line if cell.delta is not None]
    usual = most_common(counts)
    seeds = f", n = {counted(usual, 'seed')}" if usual else ""
    yield _narrowed(
        Grid(
            f"{block.title}, differences",
            f"{difference_caption(table)}{seeds}",
            tuple(map(Column, block_heads(table, block))),
            tuple(
                Line(row.title, tuple(difference(table, c, table.main, usual) for c in line))
                for row, line in zip(rows, lines, strict=True)
            ),
            table.signature(block.groups[-1].seeds),
            signature=table.signatures.get("", ""),
        )
    )


def _narrowed(grid: Grid) -> Grid:
    """The grid, which a narrow screen shows without the intervals of all but the last column."""
    values = sum(column.kind == "value" for column in grid.columns)
    if not any(entry.around for line in grid.lines for entry in line.entries[: values - 1]):
        return grid
    lines = tuple(
        Line(
            line.title,
            (
                *(replace(entry, around="") for entry in line.entries[: values - 1]),
                *line.entries[values - 1 :],
            ),
        )
        for line in grid.lines
    )
    return replace(grid, narrow=replace(grid, caption=grid.caption + _LESS, lines=lines))
