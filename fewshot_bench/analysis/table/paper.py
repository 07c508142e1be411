"""The paper layout: the grids of the compact one, with means alone, as papers print them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from fewshot_bench.analysis.formats.document import (
    Column,
    Document,
    Entry,
    Grid,
    Item,
    Line,
    Section,
)
from fewshot_bench.analysis.table.axes import Row
from fewshot_bench.analysis.table.compact import (
    Block,
    block_heads,
    block_n,
    block_rows,
    blocks,
    without_said,
)
from fewshot_bench.analysis.table.full import (
    COMMANDS,
    closing,
    difference,
    difference_caption,
    evidence,
    marks,
    ranked_column,
)
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.analysis.table.notes import RANGES

# Columns of CSV before and behind those of the data sets.
_FIRST = ("shots", "part", "fitted_on", "method")
_LAST = ("n_seeds", "other_seeds")


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
        lines = block_rows(table, block)
        usual = block_n(table, block, lines, table.metric)
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
    return [f"dataset_{head}" if head in taken else head for head in block_heads(table, block)]


def _values(table: Table, block: Block) -> Grid:
    rows = block_rows(table, block)
    usual = block_n(table, block, rows, table.metric)
    columns = [
        ranked_column(table, group, rows, block.shots, usual, table.metric)
        for group in block.groups
    ]
    seeds = f"mean over {usual} {'seed' if usual == 1 else 'seeds'}" if usual else "no results"
    caption = f"{table.main.quantity}, {seeds}{marks(table)}"
    # The caption gives the number of seeds; cells with another number show theirs.
    return _grid(table, block, block.title, caption, rows, columns, usual)


def _differences(table: Table, block: Block) -> Grid:
    rows = [row for row in block_rows(table, block) if row.label != table.baseline]
    metric = table.main
    columns = [
        [difference(table, table.cell(group, row, block.shots), metric) for row in rows]
        for group in block.groups
    ]
    caption = difference_caption(table)
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
        Line(row.title, tuple(_plain(column[index], usual) for column in columns))
        for index, row in enumerate(rows)
    ]
    signature = table.signatures.get("", "")
    footer = table.signature(block.groups[0].seeds)
    heads = tuple(map(Column, block_heads(table, block)))
    return Grid(title, caption, heads, tuple(lines), footer, signature=signature)


def _plain(entry: Entry, usual: int) -> Entry:
    """Drop the interval, and what the caption says."""
    return without_said(dataclasses.replace(entry, around=""), usual)
