"""Grids of a table: values and differences, of blocks of rows by columns of groups and shots.

A layout describes a `Part`: heads, and blocks with their rows and the (group, shots) of every
column. `value_grid` and `difference_grid` fill it with what `Display` asks for.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    SECOND,
    Column,
    Entry,
    Grid,
    Line,
)
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.columns import CURVE, curve, curve_head
from fewshot_bench.analysis.table.costs import every_cost
from fewshot_bench.analysis.table.evidence import explain_stars
from fewshot_bench.analysis.table.notes import marks
from fewshot_bench.analysis.table.table import Cell, Group, Row, Scope, Table
from fewshot_bench.api.metrics import Metric
from fewshot_bench.utils.text import counted, signed

if TYPE_CHECKING:
    from fewshot_bench.analysis.sweep.panels import SweepOptions

Spread = Literal["interval", "std", "none"]
# What follows a mean, in the words of help texts.
SPREADS: tuple[Spread, ...] = ("interval", "std", "none")
SHOTS, DATASET = "shots", "dataset"
HALVES: dict[Scope, str] = {"base": "base", "new": "new", "H": "H"}


@dataclass(frozen=True, slots=True)
class Display:
    """How tables are shown.

    layout: a name of `LAYOUTS`. stack: what stands in blocks of one table, `SHOTS`, `DATASET` or a
    condition of runs. spread: what follows a mean, empty for what the layout has. digits: decimals,
    None for the layout's. swept: of the layouts over options.
    """

    layout: str = "compact"
    stack: str = SHOTS
    spread: Spread | Literal[""] = ""
    digits: int | None = None
    swept: SweepOptions | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A group of a kind of evaluation with its head, and the one above it."""

    group: Group
    head: str
    over: str = ""

    @property
    def column(self) -> Column:
        """Its column; an average stands apart, but not from what is with it under one head."""
        return Column(self.head, over=self.over, apart=self.group.average and not self.over)

    @property
    def half(self) -> str:
        """Base, new or H, if it is one of them."""
        return HALVES.get(self.group.scope, "")

    @property
    def name(self) -> str:
        """The data set."""
        return self.over if self.half else self.head


@dataclass(frozen=True, slots=True)
class Kind:
    """Groups that stand side by side, an average among them. title: of the kind in captions."""

    title: str
    places: tuple[Place, ...]
    scope: Scope = "all"
    source: str = ""

    @property
    def shots(self) -> tuple[int, ...]:
        """The numbers of shots of its groups, but for a source beside its targets."""
        return self.places[-1].group.shots


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a table with their titles, and the group and number of shots of every column.

    A row is None, and so is a group, where the table has none. title: of the block, if there are
    several.
    """

    table: Table
    rows: tuple[tuple[str, Row | None], ...]
    columns: tuple[tuple[Group | None, int], ...]
    title: str = ""

    def cells(self, row: Row | None) -> list[Cell | None]:
        """The cells of a row; None where the table has none."""
        return [
            self.table.cells.get((group.label, row.label, shots)) if group and row else None
            for group, shots in self.columns
        ]

    @property
    def last(self) -> Group | None:
        """The group of the last column, which is the average where there is one."""
        return self.columns[-1][0]


@dataclass(frozen=True, slots=True)
class Part:
    """What one grid shows: columns under their heads, and blocks of rows.

    texts: names of columns beside the values. plain: whether the caption says that there is one
    seed. words: whether costs have units. first: head of the titles of rows.
    """

    title: str
    heads: tuple[Column, ...]
    blocks: tuple[Block, ...]
    texts: tuple[str, ...] = ()
    plain: bool = True
    words: bool = False
    first: str = "method"

    @property
    def table(self) -> Table:
        """The table of the first block, whose metric and baseline all have."""
        return self.blocks[0].table

    def usual_n(self, metric: str) -> int:
        """The most common number of seeds; only other cells show theirs."""
        cells = [c for block in self.blocks for _, row in block.rows for c in block.cells(row) if c]
        return most_common([c.estimates[metric].n for c in cells if metric in c.estimates])

    def grid(self, name: str, caption: str, heads: Sequence[Column], lines: Sequence[Line]) -> Grid:
        """A grid with the footers and signatures of all tables."""
        by_table = {id(block.table): block for block in self.blocks}
        several = len(by_table) > 1
        footers, signatures = [], []
        for block in by_table.values():
            table = block.table
            seeds = table.seeds if several or block.last is None else block.last.seeds
            footers.append(table.signature(seeds))
            labels = {group.label if group else "" for group, _ in block.columns}
            label = labels.pop() if len(labels) == 1 else ""
            signatures.append(table.signatures.get(label) or table.signatures.get("", ""))
        signature = "\n".join(filter(None, signatures))
        footer = "\n".join(footers)
        return Grid(name, caption, tuple(heads), tuple(lines), footer, self.first, signature)


def most_common(counts: Sequence[int]) -> int:
    """The most common of these numbers of seeds, the largest if several are; 0 for none."""
    return max(sorted(set(counts), reverse=True), key=counts.count, default=0)


def marks_of_part(part: Part) -> str:
    """Marks that qualify the comparison in any block, for a caption."""
    return "".join(dict.fromkeys(marks(block.table) for block in part.blocks))


def value_grid(part: Part, metrics: Sequence[str], spread: Spread) -> Grid:
    """The values of a part for each of the metrics, the first of which is that of the caption."""
    table = part.table
    main, *others = (table.metrics[name] for name in metrics)
    usual = part.usual_n(main.name)
    heads = [
        replace(head, head=head.head if metric is main else f"{metric.short} {head.head}")
        for metric in (main, *others)
        for head in part.heads
    ]
    heads += [Column(_text_head(part, name), "side") for name in part.texts]
    lines: list[Line] = []
    for block in part.blocks:
        columns = [
            _rank(block, index, usual, metric, spread, plain=part.plain)
            for metric in (main, *others)
            for index in range(len(block.columns))
        ]
        texts = [tuple(map(Entry, _texts(part, block, row))) for _, row in block.rows]
        entries = zip(*columns, strict=True) if columns else ((),) * len(block.rows)
        lines += _lines(block, [(*own, *more) for own, more in zip(entries, texts, strict=True)])
    more = "".join(f"; {metric.quantity}" for metric in others)
    return part.grid(
        part.title if main.name == table.metric else f"{part.title}, {main.short}",
        f"{main.quantity}, {_describe(spread, usual)}{more}{marks_of_part(part)}",
        heads,
        lines,
    )


def _describe(spread: Spread, usual: int) -> str:
    """What the numbers are over the usual number of seeds, for a caption."""
    if not usual:
        return "mean, no results"
    seeds = counted(usual, "seed")
    if spread != "interval":
        return f"mean{' ± standard deviation' * (spread == 'std' and usual > 1)} over {seeds}"
    around = {1: "", 2: " (range)"}.get(usual, " ± 95 % t-interval")
    return f"mean{around}, n = {seeds}"


def _lines(block: Block, entries: Sequence[tuple[Entry, ...]]) -> Iterator[Line]:
    """The lines of a block, under the titles of it and of its groups."""
    title, group = block.title, ""
    for (name, row), own in zip(block.rows, entries, strict=True):
        inside = row.group if row else ""
        above = inside if inside != group else ""
        ours = row is not None and row.ours
        yield Line(name, own, title, above, inside=bool(inside), ours=ours)
        title, group = "", inside


def _text_head(part: Part, name: str) -> str:
    group = part.blocks[-1].last
    if name == CURVE and group is not None:
        return curve_head(part.table, group)
    cost = every_cost().get(name)
    return name if cost is None else cost.title if part.words else cost.head


def _texts(part: Part, block: Block, row: Row | None) -> Iterator[str]:
    """The texts of a row beside its values, those of the last group."""
    group, table = block.last, block.table
    if group is None or row is None:
        yield from [MISSING] * len(part.texts)
        return
    shown = {shots for _, shots in block.columns}
    line = table.line(group, row)
    expected = [cell for cell in line if cell.expected]
    never = expected and all(cell.status == "inapplicable" for cell in expected)
    nothing = INAPPLICABLE if never else MISSING
    extra = table.row_extra.get((group.label, row.label), {})
    costs = every_cost()
    for name in part.texts:
        if name == CURVE:
            yield curve(table, group, row)
        elif cost := costs.get(name):
            cost = replace(cost, text=cost.words) if part.words else cost
            yield cost.span([c.costs.get(name) for c in line if c.shots in shown]) or nothing
        else:
            value = extra.get(name)
            yield nothing if value is None else str(value)


def _rank(
    block: Block, index: int, usual: int, metric: Metric, spread: Spread, *, plain: bool
) -> list[Entry]:
    """A column of a block; best and second are ranked by their rounded numbers."""
    cells = [block.cells(row)[index] for _, row in block.rows]
    estimates = [cell.estimates.get(metric.name) if cell else None for cell in cells]
    shown = [metric.text(estimate.mean) if estimate else "" for estimate in estimates]
    ranked = sorted({float(text) for text in shown if text}, reverse=metric.higher_is_better)
    several = sum(bool(text) for text in shown) > 1
    entries = []
    for cell, estimate, text in zip(cells, estimates, shown, strict=True):
        if cell is None:
            entries.append(Entry(MISSING))
        elif estimate is None and cell.group.scope == "H" and not metric.higher_is_better:
            entries.append(Entry(INAPPLICABLE))
        else:
            rank = ranked.index(float(text)) + 1 if text and several else 0
            rank = rank if rank in (BEST, SECOND) else 0
            entry = _entry(cell, estimate, usual, rank, metric, spread)
            entries.append(drop_said(entry, usual) if plain else entry)
    return entries


def drop_said(entry: Entry, usual: int) -> Entry:
    """The entry without `n=1`, if the caption gives it."""
    return replace(entry, suffix="", short="") if usual == 1 and entry.short == "n=1" else entry


def _entry(
    cell: Cell, estimate: Estimate | None, usual: int, rank: int, metric: Metric, spread: Spread
) -> Entry:
    if estimate is None:
        if cell.status == "inapplicable":
            return Entry(INAPPLICABLE)
        if cell.status == "failed":
            return Entry("failed", suffix=f"x{cell.failed}", short=f"x{cell.failed}")
        return Entry(MISSING if cell.expected else "")
    special = estimate.n != usual or estimate.n == 1 or cell.failed > 0
    parts = [f"n={estimate.n}"] if special else []
    parts += [f"{cell.failed} failed"] if cell.failed else []
    suffix = f"({', '.join(parts)})" if parts else ""
    short = " ".join([*parts[:1], *(["!"] if cell.failed else [])])
    around = _around(cell, estimate, metric, spread)
    return Entry(metric.text(estimate.mean), around, suffix, rank, short)


def _around(cell: Cell, estimate: Estimate, metric: Metric, spread: Spread) -> str:
    """The interval, or the standard deviation over runs (of n - 1), or nothing."""
    if spread == "interval":
        return estimate.around(metric.digits)
    runs = list(cell.series.get(metric.name, {}).values())
    if spread == "none" or len(runs) < 2:
        return ""
    return f"±{statistics.stdev(runs):.{metric.digits}f}"


def difference_grid(part: Part, spread: Spread, usual: int = 0) -> Grid:
    """The differences of a part to the baseline; usual: the number of seeds not to be named."""
    table = part.table
    lines: list[Line] = []
    for block in part.blocks:
        rows = tuple(
            (name, row) for name, row in block.rows if row and row.label != block.table.baseline
        )
        own = replace(block, rows=rows)
        entries = [
            tuple(_difference(own.table, cell, usual, spread) for cell in own.cells(row))
            for _, row in rows
        ]
        lines += _lines(own, entries)
    caption = (
        f"difference to {table.baseline} in {table.main.difference}, paired over seeds "
        f"on identical splits{explain_stars(table)}{marks_of_part(part)}"
    )
    return part.grid(part.title, caption, part.heads, lines)


def _difference(table: Table, cell: Cell | None, usual: int, spread: Spread) -> Entry:
    if cell is None:
        return Entry(MISSING)
    if cell.no_delta:
        return Entry(INAPPLICABLE)
    if cell.delta is None:
        return Entry(MISSING if cell.expected else "")
    contrast = table.contrast(cell)
    star = "*" if contrast is not None and contrast.significant else ""
    count = "" if cell.delta.n == usual else f"n={cell.delta.n}"
    suffix = f"({count}){star}" if count else star
    digits = table.main.digits
    around = "" if spread == "none" else cell.delta.around(digits, sign=True)
    return Entry(signed(cell.delta.mean, digits), around, suffix, short=f"{count}{star}")
