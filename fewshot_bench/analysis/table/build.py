"""Build the table of records: cells over seeds, averages over groups, differences.

`build` is the entry; records that must not share a table are refused before any number is computed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.conditions import (
    OWN_DATA,
    SKIPPED_IMAGES,
    assign_rows,
    overlaps_of,
    refuse_mixed,
    starts,
    values_of,
)
from fewshot_bench.analysis.filters import absent, method_names, place, split_list
from fewshot_bench.analysis.frame import decode, distinct, frame, load, own_data_text, values
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.analysis.statistics.intervals import Estimate, pair_runs
from fewshot_bench.analysis.table.cells import (
    Member,
    average,
    columns_to_read,
    extra_columns,
    harmonic,
    own_cell,
    without_counterpart,
)
from fewshot_bench.analysis.table.columns import check_columns, facts_of
from fewshot_bench.analysis.table.groups import Names, table_groups
from fewshot_bench.analysis.table.notes import notes
from fewshot_bench.analysis.table.significance import Answers, significance, variations
from fewshot_bench.analysis.table.table import Cell, Group, Row, Scope, Seed, Table
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.image_facts import overlap_texts
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, RunSpec
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

# Returns extra columns by title for the records of one line (hook `table_columns`).
Columns = Callable[[Sequence[Record]], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """Options of a table; `method`, `dataset` and `columns` are comma lists in display order.

    metrics: metrics computed for cells, by name. sign_each: whether every group gets a signature of
    its own, since groups may be used separately. rename: names to replace, as `OLD=NEW`. notes:
    further notes below the table. older: (method, version) pairs that no command computes.
    elsewhere: names that are known although these records lack them, as the baseline of others.
    """

    metric: str = "top1"
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=lambda: METRICS)
    baseline: str | None = None
    allow_mixed: bool = False
    method: str | None = None
    dataset: str | None = None
    store: str = "fsbench-results"
    columns: str | None = None
    sort: str = ""
    sign_each: bool = False
    rename: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    older: frozenset[tuple[str, str]] = frozenset()
    elsewhere: frozenset[str] = frozenset()


def build(
    records: Sequence[Record],
    options: Options | None = None,
    columns: Columns | None = None,
    answers: Answers | None = None,
    data: pd.DataFrame | None = None,
) -> Table:
    """The table of these records; UsageError when they must not share one table.

    columns: those of plug-ins. answers: reads predictions per image; if given, differences are
    tested. data: the frame of the records, if there is one.
    """
    options = options or Options()
    main = options.metrics[options.metric]
    data = frame(records) if data is None else data
    groups = table_groups(data, options.dataset, harmonic=main.higher_is_better)
    load(data, *columns_to_read())
    if not options.allow_mixed:
        refuse_mixed(data)
    rows = assign_rows(data)
    names = Names.read(options.rename, rows, groups, options.elsewhere)
    labels = {label: names.row(label, row.spec.method) for label, row in rows.items()}
    rows, groups = names.rows(rows), names.groups(groups)
    seeds = sorted(distinct(data, "split_seed", "train_seed"))
    table = Table(
        rows=tuple(_order_rows(list(rows.values()), options.method)),
        groups=groups,
        shots=tuple(sorted(shots for (shots,) in distinct(data, "shots"))),
        seeds=tuple(Seed(*pair) for pair in seeds),
        metric=options.metric,
        metrics=options.metrics,
        conditions=_conditions(data),
        records=len(records),
        cells={},
        sort=options.sort,
        signatures=_signatures(records, groups if options.sign_each else ()),
        renamed=names.new,
    )
    columns = _add_facts(columns, options.columns)
    by_row: dict[str, list[Record]] = {row.label: [] for row in rows.values()}
    for label, record in zip(values(data, "line"), records, strict=True):
        by_row[rows[label].label].append(record)
    extra = _row_extra(table, by_row, columns)
    titles = {title for values in extra.values() for title in values}
    table = replace(
        table,
        cells=_cells(table, by_row, _members(data, options.metrics), columns),
        row_extra=extra,
        columns=check_columns(options.columns, {*METRICS, *options.metrics, *titles}),
    )
    without = options.baseline if options.baseline in options.elsewhere else None
    if options.baseline and not without:
        table = with_baseline(table, labels.get(options.baseline, options.baseline))
    if answers is not None:
        base = table.baseline
        table = replace(
            table,
            variations=tuple(variations(table, answers)),
            significance=significance(table, base, answers) if base else None,
        )
    missing = (
        spec
        for spec in missing_cells(table)
        if (spec.method, spec.method_version) not in options.older
    )
    lines, remarks = commands_of(missing, options.store)
    shared = overlap_texts(overlaps_of(data)).values()
    lack = [f"no differences to {without}, of which there is no record here"] if without else []
    all_notes = (*options.notes, *lack, *notes(table), *shared, *remarks)
    return replace(table, commands=tuple(lines), notes=all_notes)


def _add_facts(columns: Columns | None, names: str | None) -> Columns | None:
    """Prepend the requested facts of methods to the plug-ins' columns."""
    if not facts_of(names, ()):
        return columns
    return lambda records: facts_of(names, records) | dict(columns(records) if columns else {})


def _members(data: pd.DataFrame, metrics: Collection[str]) -> dict[int, Member]:
    """What cells need of each record, by its identity."""
    records = values(data, "record")
    stated = Record.entries(records, "metrics", *metrics)
    facts = zip(*(values(data, name) for name in columns_to_read()), strict=True)
    return {
        id(record): Member(record, dict(zip(metrics, numbers, strict=True)), *line)
        for record, numbers, line in zip(records, stated, facts, strict=True)
    }


def _signatures(records: Sequence[Record], groups: Sequence[Group]) -> dict[str, str]:
    signatures = {"": signature_of(records)}
    for group in groups:
        own = [record for record in records if record.spec.evaluated == group.label]
        signatures[group.label] = signature_of(own) if own else signatures[""]
    return signatures


def _order_rows(rows: Sequence[Row], names: str | None) -> list[Row]:
    every = {name for row in rows for name in method_names(row.spec)}
    wanted = split_list(names, every) if names else []

    def key(row: Row) -> tuple[int, str, str]:
        first = min(place(wanted, name) for name in method_names(row.spec))
        return first, row.spec.label if names else row.spec.method, row.label

    return sorted(rows, key=key)


def _conditions(data: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    conditions = {}
    for name, texts in values_of(data).items():
        about, shown = CONDITIONS[name], tuple(sorted(texts))
        if about.prefix:
            short = starts(shown)
            shown = tuple(short[text] for text in shown if text)
        if shown and not (about.quiet and shown == (about.text(about.default),)):
            conditions[name] = shown
    own = {text for (text,) in distinct(data, "data text")} - {"none"}
    left_out = {
        own_data_text(decode(stated), dataset)
        for stated, dataset in distinct(data, "data", "dataset")
        if decode(stated).get(SKIPPED, {}).get(dataset)
    }
    for name, digests in ((OWN_DATA, own), (SKIPPED_IMAGES, left_out)):
        if digests:
            conditions[name] = tuple(sorted(digests))
    return conditions


def _cells(
    table: Table,
    by_row: Mapping[str, Sequence[Record]],
    members: Mapping[int, Member],
    columns: Columns | None,
) -> dict[tuple[str, str, int], Cell]:
    own, usual = _own_data(by_row)
    cells: dict[tuple[str, str, int], Cell] = {}
    table = replace(table, cells=cells)
    halves = {(g.scope, g.dataset, g.average): g for g in table.groups}
    for row in table.rows:
        parts: defaultdict[tuple[str, int], list[Member]] = defaultdict(list)
        for record in by_row[row.label]:
            parts[record.spec.evaluated, record.spec.shots].append(members[id(record)])
        has = {shots > 0 for _, shots in parts}
        for group, shots in _in_order_of_need(table):
            if group.derived:
                cell = _derive(table, halves, group, row, shots)
            else:
                part = parts.get((group.label, shots), [])
                cell = own_cell(group, row, shots, part, table.metric, table.metrics, columns)
                data = own.get((row.label, group.dataset), usual[group.dataset])
                cell = replace(cell, own_data=data)
            # Expect cells at (or above) zero shots only of rows with such records.
            cells[group.label, row.label, shots] = replace(cell, expected=(shots > 0) in has)
    return cells


def _in_order_of_need(table: Table) -> list[tuple[Group, int]]:
    """All (group, shots); derived groups follow those that they are computed from."""
    groups = sorted(table.groups, key=lambda group: (group.scope == "H", group.average))
    return [(group, shots) for shots in table.shots for group in groups if shots in group.shots]


def _own_data(
    by_row: Mapping[str, Sequence[Record]],
) -> tuple[dict[tuple[str, str], Mapping[str, Any]], dict[str, Mapping[str, Any]]]:
    """Own-data options by row and data set, and by data set alone, those of the first row."""
    own: dict[tuple[str, str], Mapping[str, Any]] = {}
    usual: dict[str, Mapping[str, Any]] = {}
    for label, records in by_row.items():
        for record in records:
            own[label, record.spec.dataset] = record.spec.data
            usual.setdefault(record.spec.dataset, record.spec.data)
    return own, usual


def _derive(
    table: Table,
    halves: Mapping[tuple[Scope, str, bool], Group],
    group: Group,
    row: Row,
    shots: int,
) -> Cell:
    """The cell of an average or harmonic mean. halves: groups by scope, data set and `average`."""
    if group.scope != "H":
        cells = [table.cell(member, row, shots) for member in table.members(group)]
        return average(group, row, shots, cells, table.metric, table.metrics)
    base = halves["base", group.dataset, group.average]
    new = halves["new", group.dataset, group.average]
    pair = (table.cell(base, row, shots), table.cell(new, row, shots))
    cell = harmonic(group, row, shots, pair, table.metric, table.metrics)
    if group.average and cell.status != "inapplicable":
        sides = table.members(base), table.members(new)
        both = {g.dataset for g in sides[0]} & {g.dataset for g in sides[1]}
        odd = [g for side in sides for g in side if g.dataset not in both]
        return without_counterpart(group, row, shots, odd) if odd else cell
    return cell


def _row_extra(
    table: Table, by_row: Mapping[str, Sequence[Record]], columns: Columns | None
) -> dict[tuple[str, str], Mapping[str, Any]]:
    extra: dict[tuple[str, str], Mapping[str, Any]] = {}
    for group in table.groups if columns else ():
        parts = table.members(group) if group.average else (group,)
        names = {part.label for part in parts}
        for label, records in by_row.items():
            own = [record for record in records if record.spec.evaluated in names]
            extra[group.label, label] = extra_columns(columns, own)
    return extra


def with_baseline(table: Table, name: str) -> Table:
    """The table with a difference to the row `name` in every other cell that allows one."""
    baseline = _find_row(table, name)
    cells = dict(table.cells)
    for key, cell in table.cells.items():
        if cell.row is not baseline:
            other = table.cell(cell.group, baseline, cell.shots)
            pair = (cell, other) if cell.expected else ()
            reasons = [part.reason for part in pair if part.status == "inapplicable"]
            cells[key] = replace(
                cell,
                delta=_difference(cell, other, table.metric),
                no_delta="; ".join(dict.fromkeys(reasons)),
            )
    return replace(table, cells=cells, baseline=baseline.label)


def _difference(cell: Cell, other: Cell, metric: str) -> Estimate | None:
    ours, theirs = cell.series.get(metric, {}), other.series.get(metric, {})
    same = {
        seed: _is_digest(split) and split == other.splits.get(seed)
        for seed, split in cell.splits.items()
    }
    return pair_runs(ours, theirs, same)


def _is_digest(split: Hashable) -> bool:
    """True if the split has a digest; of a tuple of splits, if all of them have one."""
    return all(map(_is_digest, split)) if isinstance(split, tuple) else bool(split)


def _find_row(table: Table, name: str) -> Row:
    rows = [row for row in table.rows if row.label == name]
    rows = rows or [row for row in table.rows if name in method_names(row.spec)]
    if len(rows) == 1:
        return rows[0]
    if not rows:
        labels = [row.label for row in table.rows]
        raise absent("baseline", name, labels, "expected a method of the table")
    choices = ", ".join(f"'{row.label}'" for row in rows)
    raise UsageError(f"baseline '{name}' is not one row of the table: choose one of {choices}")


def missing_cells(table: Table) -> Iterator[RunSpec]:
    """Specs of the cells that the table expects and that have no record.

    Revisions and imported picks are left empty, since a run determines them itself.
    """
    for cell in table.cells.values():
        group = cell.group
        if group.derived or not cell.expected:
            continue
        for seed in cell.missing_seeds:
            yield replace(
                cell.row.spec,
                dataset=group.dataset,
                target=group.target,
                classes=group.scope if group.scope in ("base", "new") else "all",
                shots=cell.shots,
                split_seed=seed.split,
                train_seed=seed.train,
                data=cell.own_data,
                revision="",
                target_revision="",
                picks="",
            )
