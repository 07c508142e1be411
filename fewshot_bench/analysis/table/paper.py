"""The paper layout: methods in rows, data sets in columns, the average last, one grid per shots."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from fewshot_bench.analysis.formats.document import Document, Entry, Grid, Item, Line, Section
from fewshot_bench.analysis.table.axes import AVERAGE, Group, Row, Scope
from fewshot_bench.analysis.table.columns import sorted_rows
from fewshot_bench.analysis.table.layout import (
    COMMANDS,
    closing,
    difference,
    evidence,
    marks,
    ranked_column,
    stars,
    usual_n,
)
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.analysis.table.notes import RANGES

_SCOPES: dict[Scope, str] = {
    "all": "",
    "base": ", base classes",
    "new": ", new classes",
    "H": ", harmonic mean of base and new classes",
    "transfer": ", transfer",
}

# Columns of CSV before and behind those of the data sets.
_FIRST = ("shots", "part", "fitted_on", "method")
_LAST = ("n_seeds", "other_seeds")


@dataclasses.dataclass(frozen=True, slots=True)
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


def document(table: Table, form: str, caption: str = "") -> Document:
    """The table in the paper layout; the terminal shows fewer commands."""
    if form == "csv":
        return Document(rows=paper_rows(table), heads=(*_FIRST, *_LAST))
    notes, commands = closing(table, COMMANDS if form == "terminal" else None)
    # This layout shows neither intervals nor ranges.
    notes = [note for note in notes if note not in RANGES]
    grids = list(paper_grids(table))
    head = [Section(items=[Item(caption)])] if caption else []
    return Document((*head, Section(grids=grids)), notes, commands, table.signatures.get("", ""))


def paper_grids(table: Table) -> Iterator[Grid]:
    """A grid of means per block, then grids of differences to the baseline, then evidence."""
    found = list(blocks(table))
    yield from (_values(table, block) for block in found)
    if table.baseline is not None:
        yield from (_differences(table, block) for block in found)
    yield from evidence(table)


def paper_rows(table: Table) -> list[dict[str, Any]]:
    """The means of the grids as tidy rows; None for a cell without one.

    `n_seeds` is the usual number of seeds of the grid, `other_seeds` names cells with another one.
    """
    found = list(blocks(table))
    heads = dict.fromkeys(head for block in found for head in _columns(table, block))
    rows = []
    for block in found:
        lines = _lines(table, block)
        usual = _usual(table, block, lines)
        for row in lines:
            cells = [table.cell(group, row, block.shots) for group in block.groups]
            values = {
                head: cell.estimates[table.metric]
                for head, cell in zip(_columns(table, block), cells, strict=True)
                if table.metric in cell.estimates
            }
            first = (block.shots, block.scope, block.source, row.title)
            line: dict[str, Any] = dict(zip(_FIRST, first, strict=True))
            for head in heads:
                line[head] = round(values[head].mean, 6) if head in values else None
            odd = [f"{head} n={value.n}" for head, value in values.items() if value.n != usual]
            rows.append(line | dict(zip(_LAST, (usual, odd), strict=True)))
    return rows


def _columns(table: Table, block: Block) -> list[str]:
    """CSV columns of a block's groups; a data set of the name of another column gets a prefix."""
    taken = (*_FIRST, *_LAST)
    return [f"dataset_{head}" if head in taken else head for head in _heads(table, block)]


def _values(table: Table, block: Block) -> Grid:
    rows = _lines(table, block)
    usual = _usual(table, block, rows)
    columns = [
        ranked_column(table, group, rows, block.shots, usual, table.metric)
        for group in block.groups
    ]
    seeds = f"mean over {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    caption = f"{table.main.quantity}, {seeds}{marks(table)}"
    # The caption gives the number of seeds; cells with another number show theirs.
    return _grid(table, block, block.title, caption, rows, columns, usual)


def _differences(table: Table, block: Block) -> Grid:
    rows = [row for row in _lines(table, block) if row.label != table.baseline]
    metric = table.main
    columns = [
        [difference(table, table.cell(group, row, block.shots), metric) for row in rows]
        for group in block.groups
    ]
    caption = (
        f"difference to {table.baseline} in {metric.difference}, paired over seeds on identical "
        f"splits{stars(table)}{marks(table)}"
    )
    # Another name than that of the values, as a caption or a label may end with it.
    return _grid(table, block, f"{block.title}, differences", caption, rows, columns, 0)


def _grid(
    table: Table,
    block: Block,
    title: str,
    caption: str,
    rows: Sequence[Row],
    columns: Sequence[Sequence[Entry]],
    usual: int,
) -> Grid:
    lines = [
        Line(row.title, tuple(_plain(column[index], usual) for column in columns), ())
        for index, row in enumerate(rows)
    ]
    signature = table.signatures.get("", "")
    footer = table.signature(block.groups[0].seeds)
    return Grid(title, caption, _heads(table, block), (), tuple(lines), footer, signature=signature)


def _plain(entry: Entry, usual: int) -> Entry:
    """Drop the interval for lack of room, and `n=1` where the caption already gives it."""
    said = usual == 1 and entry.short == "n=1"
    plain = dataclasses.replace(entry, around="")
    return dataclasses.replace(plain, suffix="", short="") if said else plain


def _lines(table: Table, block: Block) -> list[Row]:
    """Rows with an expected cell in this block, sorted by the last column."""
    return [
        row
        for row in sorted_rows(table, block.groups[-1], block.shots)
        if any(table.cell(group, row, block.shots).expected for group in block.groups)
    ]


def _usual(table: Table, block: Block, rows: Sequence[Row]) -> int:
    cells = [table.cell(group, row, block.shots) for group in block.groups for row in rows]
    return usual_n(cells, table.metric)


def _heads(table: Table, block: Block) -> tuple[str, ...]:
    """Names of the data sets; the kind of evaluation is in the title of the block."""
    return tuple(
        table.names.new.get(group.label)
        or table.names.of(AVERAGE if group.average else group.target or group.dataset)
        for group in block.groups
    )
