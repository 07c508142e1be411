"""The layouts of a table; `lay_out` is the entry. A layout makes parts, which are drawn as grids.

A part is rows by columns in blocks (`grids.Part`); the layouts differ in what stands where:

- `compact`: data sets in columns, a grid per kind of evaluation and number of shots; of a single
  data set, the numbers of shots in columns.
- `full`: the latter for every data set and average, with costs.
- `paper`: one grid per setting as papers print it, numbers of shots, data sets or sets of
  conditions in blocks: base, new and H side by side, sources beside targets.
- `ablation`: values of one option of a method in rows, a block per option.
- `costs`: costs beside the average.
- `sweep`: in `analysis.sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fewshot_bench.analysis.formats.document import Column, Document, Grid, Section
from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.table.build import spec_of
from fewshot_bench.analysis.table.columns import (
    has_curve,
    metric_columns,
    sort_rows,
    text_columns,
)
from fewshot_bench.analysis.table.costs import MORE_COSTS
from fewshot_bench.analysis.table.evidence import evidence
from fewshot_bench.analysis.table.grids import (
    DATASET,
    HALVES,
    SHOTS,
    Block,
    Display,
    Kind,
    Part,
    Place,
    Spread,
    difference_grid,
    most_common,
    value_grid,
)
from fewshot_bench.analysis.table.notes import COMMANDS, RANGES, SCREENS, close
from fewshot_bench.analysis.table.table import AVERAGE, Cell, Group, Row, Scope, Table
from fewshot_bench.api.metrics import PERCENT
from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.utils.errors import UsageError, unknown
from fewshot_bench.utils.text import counted

LAYOUTS = ("compact", "full", "paper", "ablation", "costs", "sweep")
DEFAULT = "compact"
# Layouts without intervals, with one decimal, whose notes are comments in LaTeX.
PRINTED = ("paper", "ablation", "costs", "sweep")
# Layouts whose tables may have several sets of conditions, in blocks.
STACKED = ("paper", "costs")
DATA = ("csv", "json")
# Options that a layout has no room for, and those that only some have.
_EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "paper": ("columns",),
    "ablation": ("baseline", "columns", "sort", "groups", "ours"),
    "costs": ("baseline",),
    "sweep": ("baseline", "columns", "sort", "groups", "ours", "spread"),
}
_OWNERS: Mapping[str, tuple[str, ...]] = {
    "stack": STACKED,
    "options": ("sweep", "ablation"),
    "each": ("sweep",),
}
_SCOPES: dict[Scope, str] = {
    "all": "",
    "base": ", base classes",
    "new": ", new classes",
    "H": ", harmonic mean of base and new classes",
    "transfer": ", transfer",
}
# Plain data sets, as the name of a setting.
ALL = "all classes"
# What a caption says of a grid without room for more.
_LESS = "; intervals of data sets: --layout full"
# A table, and the title of its blocks beside those of others.
Titled = tuple[str, Table]


def check_options(
    layout: str, given: Collection[str], show: Callable[[str, str], str], more: str = ""
) -> None:
    """UsageError for given options that do not go with a layout.

    show: spells an option with a value, if there is one. more: a hint on `options`.
    """
    for name in given:
        owners = _OWNERS.get(name, (layout,))
        if layout not in owners:
            hint = more if name == "options" else ""
            raise UsageError(
                f"{show(name, '')} belongs to {show('layout', owners[0])}: add it, or leave this "
                f"out{hint}"
            )
        if name in _EXCLUDED.get(layout, ()):
            raise UsageError(
                f"{show('layout', layout)} has no room for {show(name, '')}; leave one of them out"
            )


def check_stack(name: str) -> str:
    """The name of what is stacked; UsageError for another one."""
    if name not in (SHOTS, DATASET, *CONDITIONS):
        raise unknown("stack", name, (SHOTS, DATASET, *CONDITIONS), "docs/how-to/compare.md")
    return name


def lay_out(
    tables: Sequence[Titled] | Table, form: str, display: Display | None = None
) -> Document:
    """The tables as a document for a format; several are blocks of the grids of a printed layout.

    CSV and JSON hold all numbers in every layout, but for `sweep`, which has the metric it shows.
    """
    display = display or Display()
    tables = [("", tables)] if isinstance(tables, Table) else list(tables)
    if display.layout == "sweep":
        from fewshot_bench.analysis.sweep import panels as sweep

        ((_, table),) = tables
        return sweep.document(sweep.sweep_of(table, display.swept or sweep.SweepOptions()), form)
    if form in DATA:
        from fewshot_bench.analysis.table.export import FIRST, meta, rows

        (table,) = (table for _, table in tables)
        lines = rows(table)
        return Document(rows=lines, heads=FIRST, data={"meta": meta(table), "rows": lines})
    is_printed, is_screen = display.layout in PRINTED, form in SCREENS
    spread: Spread = display.spread or ("none" if is_printed else "interval")
    digits = 1 if is_printed and display.digits is None else display.digits
    tables = [(title, _with_digits(table, digits)) for title, table in tables]
    grids = _grids(tables, display, spread, curves=is_screen)
    notes, commands = _lacking(tables)
    if display.layout == "ablation":
        from fewshot_bench.analysis.table.ablation import lacking_values

        notes, commands = lacking_values(tables[0][1], display.swept)
    for title, table in tables:
        own, missing = close(table, COMMANDS if is_screen else None)
        # Notes on ranges are about what is shown.
        own = own if spread == "interval" else [note for note in own if note not in RANGES]
        notes += [f"{title}: {note}" if title and len(tables) > 1 else note for note in own]
        commands += missing
    signatures = dict.fromkeys(table.signatures.get("", "") for _, table in tables)
    return Document(
        (Section(grids=list(grids)),),
        list(dict.fromkeys(notes)),
        commands,
        "\n".join(filter(None, signatures)),
        quiet=is_printed,
    )


def _lacking(tables: Sequence[Titled]) -> tuple[list[str], list[str]]:
    """Notes on groups that only other tables of a grid have, and commands that run them."""
    every = {g.label: g for _, table in tables for g in table.groups if not g.derived}
    notes, commands = [], []
    for title, table in tables:
        own = {group.label for group in table.groups}
        absent = [group for label, group in every.items() if label not in own]
        if not absent:
            continue
        names = ", ".join(group.name for group in absent)
        notes.append(f"{title}: no result on {names} (—), and so no average of all")
        specs = [
            spec_of(table, Cell(group, row, shots, "missing"), seed)
            for group in absent
            for row in table.rows
            for shots in table.shots
            if any(table.cells[key].expected for key in _keys(table, row, shots))
            for seed in table.seeds
        ]
        lines, remarks = commands_of(specs, table.store)
        commands += lines
        notes += remarks
    return notes, commands


def _keys(table: Table, row: Row, shots: int) -> list[tuple[str, str, int]]:
    return [(g.label, row.label, shots) for g in table.groups if shots in g.shots]


def _with_digits(table: Table, digits: int | None) -> Table:
    """The table with this many decimals of what is in percent."""
    if digits is None:
        return table
    changed = {
        name: replace(metric, digits=digits) if metric.unit == PERCENT else metric
        for name, metric in table.metrics.items()
    }
    return replace(table, metrics=changed)


def _grids(
    tables: Sequence[Titled], display: Display, spread: Spread, *, curves: bool
) -> Iterator[Grid]:
    """The grids of a layout."""
    (_, table), *_ = tables
    if display.layout == "compact":
        return compact(table, spread)
    if display.layout == "full":
        return full(table, spread, curves=curves)
    if display.layout == "costs":
        metrics = [table.metric, *metric_columns(table)]
        return (value_grid(part, metrics, spread) for part in costs(tables))
    if display.layout == "ablation":
        from fewshot_bench.analysis.table.ablation import ablate

        parts = ablate(table, display.swept, [*side_by_side(table)])
        return (value_grid(part, [table.metric], spread) for part in parts)
    return _printed(tables, display.stack, spread)


def full(table: Table, spread: Spread = "interval", *, curves: bool = False) -> Iterator[Grid]:
    """A value grid per group (averages only over several groups), then differences and evidence.

    curves: whether learning curves belong to the default columns.
    """
    groups = [g for g in table.groups if not g.average or len(table.members(g)) > 1]
    for group in groups:
        extra = [table.row_extra.get((group.label, row.label), {}) for row in table.rows]
        titles = list(dict.fromkeys(title for own in extra for title in own))
        texts = text_columns(table, titles, curves and has_curve(table, group))
        yield _group_values(table, group, texts, spread)
    if table.baseline is not None:
        for group in groups:
            yield difference_grid(_group_part(table, group), spread)
    yield from evidence(table)


def _group_values(table: Table, group: Group, texts: Sequence[str], spread: Spread) -> Grid:
    part = replace(_group_part(table, group), texts=tuple(texts))
    return value_grid(part, [table.metric, *metric_columns(table)], spread)


def _group_part(table: Table, group: Group) -> Part:
    """One group, with a column per number of shots."""
    heads = tuple(Column(f"{shots}-shot") for shots in group.shots)
    columns = tuple((group, shots) for shots in group.shots)
    rows = tuple((row.title, row) for row in sort_rows(table, group))
    return Part(group.name, heads, (Block(table, rows, columns),), plain=False)


def kinds(table: Table) -> Iterator[Kind]:
    """Every kind of evaluation with its average last; transfers: one per source data set."""
    for scope, title in _SCOPES.items():
        members = [group for group in table.groups if group.scope == scope]
        plain = [group for group in members if not group.average]
        for source in dict.fromkeys(g.dataset if scope == "transfer" else "" for g in plain):
            own = [group for group in plain if source in ("", group.dataset)]
            means = [g for g in members if g.average and len(table.members(g)) > 1]
            means = [g for g in means if set(table.members(g)) == set(own)][:1]
            places = tuple(Place(group, _name(table, group)) for group in (*own, *means))
            shown = table.renamed.get(source, source)
            yield Kind(f"{title}{f' from {shown}' if source else ''}", places, scope, source)


def _name(table: Table, group: Group) -> str:
    """The name of a group where the kind of evaluation is said."""
    name = AVERAGE if group.average else group.target or group.dataset
    return table.renamed.get(group.label) or table.renamed.get(name, name)


def compact(table: Table, spread: Spread = "interval") -> Iterator[Grid]:
    """Values of every kind of evaluation, then differences to the baseline, then evidence."""
    # This layout has no columns of texts by default.
    texts = () if table.columns is None else tuple(text_columns(table, (), curves=False))
    own = list(kinds(table))
    for kind in own:
        if len(kind.places) == 1:
            yield _group_values(table, kind.places[0].group, texts, spread)
            continue
        for part in _by_shots(table, kind):
            for name in (table.metric, *metric_columns(table)):
                beside = texts if name == table.metric else ()
                yield _narrow(value_grid(replace(part, texts=beside), [name], spread))
    for kind in own if table.baseline is not None else ():
        if len(kind.places) == 1:
            yield difference_grid(_group_part(table, kind.places[0].group), spread)
        else:
            yield from (_narrow(_differences(part, spread)) for part in _by_shots(table, kind))
    yield from evidence(table)


def _by_shots(table: Table, kind: Kind) -> Iterator[Part]:
    """A part of one block per number of shots."""
    heads = tuple(place.column for place in kind.places)
    for shots in kind.shots:
        block = _block(table, [(place.group, shots) for place in kind.places])
        yield Part(f"{shots}-shot{kind.title}", heads, (block,))


def _block(table: Table, columns: Sequence[tuple[Group | None, int]], title: str = "") -> Block:
    """A block with the rows that expect a cell in any of its columns."""
    own = [(group, shots) for group, shots in columns if group]
    last, shots = next((pair for pair in own if pair[0].average), own[-1])
    rows = tuple(
        (row.title, row)
        for row in sort_rows(table, last, shots)
        if any(table.cell(g, row, k).expected for g, k in own if k in g.shots)
    )
    return Block(table, rows, tuple(columns), title)


def _differences(part: Part, spread: Spread) -> Grid:
    table = part.table
    cells = [
        cell
        for block in part.blocks
        for _, row in block.rows
        if row and row.label != table.baseline
        for cell in block.cells(row)
    ]
    usual = most_common([cell.delta.n for cell in cells if cell and cell.delta is not None])
    grid = difference_grid(part, spread, usual)
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
        lines.append(replace(line, entries=(*less, *line.entries[count:])))
    return replace(grid, narrow=replace(grid, caption=grid.caption + _LESS, lines=tuple(lines)))


def _printed(tables: Sequence[Titled], stack: str, spread: Spread) -> Iterator[Grid]:
    """A grid of values per setting, then of differences to the baseline, then evidence."""
    parts = list(stacked(tables, stack))
    for part in parts:
        yield value_grid(part, [part.table.metric], spread)
    yield from (_differences(part, spread) for part in parts if part.table.baseline is not None)
    for _, table in tables:
        yield from evidence(table)


def side_by_side(table: Table) -> Iterator[Kind]:
    """The settings of papers: data sets; base, new and H of each; a source beside its targets."""
    own = list(kinds(table))
    plain = [place for kind in own if kind.scope == "all" for place in kind.places]
    sources = {kind.source for kind in own if kind.source}
    if any(not p.group.average and p.group.dataset not in sources for p in plain):
        yield Kind(ALL, tuple(plain))
    halves = [place for kind in own if kind.scope in HALVES for place in kind.places]
    # The average comes first, as in CoCoOp (Zhou et al., CVPR 2022, table 1).
    halves.sort(key=lambda place: not place.group.average)
    names = dict.fromkeys(place.head for place in halves)
    if halves:
        places = (
            Place(place.group, HALVES[place.group.scope], name)
            for name in names
            for place in halves
            if place.head == name
        )
        yield Kind("base to new classes", tuple(places), "base")
    for kind in own:
        if kind.source:
            shown = kind.title.removeprefix(", ")
            first = [place for place in plain if place.group.dataset == kind.source]
            first = [replace(place, over="source") for place in first]
            targets = (replace(place, over="targets") for place in kind.places)
            yield Kind(shown, (*first, *targets), "transfer", kind.source)


def stacked(tables: Sequence[Titled], stack: str) -> Iterator[Part]:
    """A part per setting, with blocks of the tables, and in each of its shots or data sets.

    Of a single data set, the numbers of shots are columns.
    """
    by_title: dict[str, list[tuple[str, Table, Kind]]] = {}
    for title, table in tables:
        for kind in side_by_side(table):
            by_title.setdefault(kind.title, []).append((title, table, kind))
    for name, own in by_title.items():
        places = list({p.group.label: p for *_, kind in own for p in kind.places}.values())
        shots = sorted({number for *_, kind in own for number in kind.shots})
        sets = list(dict.fromkeys(place.name for place in places))
        if stack != DATASET and len(sets) > 1:
            heads = [place.column for place in places]
            columns: dict[str, list[tuple[Place | None, int]]] = {
                f"{k}-shot": [(place, k) for place in places] for k in shots
            }
        else:
            inner = list(dict.fromkeys(place.half for place in places))
            heads = [
                Column(half or f"{k}-shot", over=f"{k}-shot" if half and len(shots) > 1 else "")
                for k in shots
                for half in inner
            ]
            by_key = {(place.name, place.half): place for place in places}
            columns = {
                name: [(by_key.get((name, half)), k) for k in shots for half in inner]
                for name in sets
            }
        blocks = [
            _block(table, [(_find(kind, place, places), k) for place, k in part], _join(title, sub))
            for title, table, kind in own
            for sub, part in columns.items()
        ]
        yield _as_part(name, heads, blocks)


def _find(kind: Kind, place: Place | None, every: Sequence[Place]) -> Group | None:
    """The group of a place in this kind; None if it has none, or an average of other data sets."""
    if place is None:
        return None
    scope = place.group.scope
    own, all_of = (
        {p.group.label for p in places if p.group.scope == scope} for places in (kind.places, every)
    )
    if place.group.average and own != all_of:
        return None
    groups = (other.group for other in kind.places)
    return next((group for group in groups if group.label == place.group.label), None)


def _join(*titles: str) -> str:
    return ", ".join(filter(None, titles))


def _as_part(name: str, heads: Sequence[Column], blocks: Sequence[Block], **more: Any) -> Part:
    """A part of the blocks that have rows; the title of a single one is in that of the part."""
    shown = [block for block in blocks if block.rows] or list(blocks[:1])
    if len(shown) == 1:
        single = shown[0].title
        name = single if name == ALL else f"{single}, {name}"
        shown = [replace(shown[0], title="")]
    return Part(name, tuple(heads), tuple(shown), **more)


def costs(tables: Sequence[Titled]) -> Iterator[Part]:
    """A part per kind of evaluation: its average, or its only data set, beside the costs."""
    by_title: dict[str, list[tuple[str, Table, Kind]]] = {}
    for title, table in tables:
        for kind in kinds(table):
            by_title.setdefault(kind.title, []).append((title, table, kind))
    for name, own in by_title.items():
        blocks = [
            _block(table, [(kind.places[-1].group, k)], _join(title, f"{k}-shot"))
            for title, table, kind in own
            for k in kind.shots
        ]
        known = {
            name
            for block in blocks
            for _, row in block.rows
            for cell in block.cells(row)
            if cell
            for name, value in cell.costs.items()
            if value is not None
        }
        # Where the time of fits is known, that of whole runs would repeat it.
        order = ("trained", "training" if "training" in known else "billed", "peak", *MORE_COSTS)
        texts = [cost for cost in dict.fromkeys(order) if cost in known]
        (_, table, kind), *_ = own
        if table.columns is not None:
            texts = text_columns(table, (), curves=False)
        heads = [Column(kind.places[-1].head)]
        yield _as_part(f"costs{name}", heads, blocks, texts=tuple(texts), words=True)
