"""Build the table of records: cells over seeds, averages over groups, differences.

`build` is the entry; records that must not share a table are refused before any number is computed.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fewshot_bench.analysis.conditions import (
    OWN_DATA,
    SKIPPED_IMAGES,
    assign_rows,
    columns_of,
    overlaps_of,
    own_data_text,
    refuse_mixed,
    starts,
    values_of,
)
from fewshot_bench.analysis.filters import absent, method_names, place, split_list
from fewshot_bench.analysis.record_columns import RecordColumns
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.analysis.statistics.intervals import Estimate, paired
from fewshot_bench.analysis.table.axes import Group, Row, Scope, Seed
from fewshot_bench.analysis.table.cells import (
    FACTS,
    Columns,
    average,
    extra_columns,
    harmonic,
    own_cell,
    without_counterpart,
)
from fewshot_bench.analysis.table.columns import COSTS, check_columns, facts_of
from fewshot_bench.analysis.table.groups import Names, table_groups
from fewshot_bench.analysis.table.model import Cell, Table
from fewshot_bench.analysis.table.notes import notes
from fewshot_bench.analysis.table.significance import (
    Answers,
    Places,
    Rows,
    significance,
    variations,
)
from fewshot_bench.api.dataset_overrides import SKIPPED
from fewshot_bench.api.image_facts import overlap_texts
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, RunSpec
from fewshot_bench.utils.errors import UsageError

Cells = dict[tuple[str, str, int], Cell]


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
    facts: RecordColumns | None = None,
) -> Table:
    """The table of these records; UsageError when they must not share one table.

    columns: returns extra columns by title for the records of one line (hook `table_columns`).
    answers: reads predictions per image; if given, differences are tested. facts: `columns_of` the
    records, if already built.
    """
    options = options or Options()
    main = options.metrics[options.metric]
    groups = table_groups(records, options.dataset, harmonic=main.higher_is_better)
    facts = facts or columns_of(records)
    facts.add(FACTS)
    facts.load(column.source for column in COSTS.values())
    if not options.allow_mixed:
        refuse_mixed(facts)
    rows = assign_rows(records, facts)
    names = Names.read(options.rename, rows, groups, options.elsewhere)
    labels = {label: names.row(label, row.spec.method) for label, (row, _) in rows.items()}
    rows, groups = names.rows(rows), names.groups(groups)
    table = Table(
        rows=tuple(_ordered_rows(rows, options.method)),
        groups=groups,
        shots=tuple(sorted({record.spec.shots for record in records})),
        seeds=tuple(
            Seed(*pair)
            for pair in sorted({(r.spec.split_seed, r.spec.train_seed) for r in records})
        ),
        metric=options.metric,
        metrics=options.metrics,
        conditions=_conditions(facts),
        records=len(records),
        cells={},
        sort=options.sort,
        signatures=_signatures(facts, groups if options.sign_each else ()),
        names=names,
    )
    columns = _with_facts(columns, options.columns)
    places = _by_place(rows)
    extra = _row_extra(table, rows, columns)
    titles = {title for values in extra.values() for title in values}
    table = dataclasses.replace(
        table,
        cells=_all_cells(table, rows, places, columns, facts),
        row_extra=extra,
        columns=check_columns(options.columns, {*options.metrics, *titles}),
    )
    without = options.baseline if options.baseline in options.elsewhere else None
    if options.baseline and not without:
        table = with_baseline(table, labels.get(options.baseline, options.baseline))
    if answers is not None:
        base = table.baseline
        table = dataclasses.replace(
            table,
            variations=tuple(variations(table, places, answers)),
            significance=significance(table, places, base, answers) if base else None,
        )
    missing = (
        spec
        for spec in missing_cells(table)
        if (spec.method, spec.method_version) not in options.older
    )
    lines, remarks = commands_of(missing, options.store)
    shared = overlap_texts(overlaps_of(facts)).values()
    absent = [f"no differences to {without}, of which there is no record here"] if without else []
    all_notes = (*options.notes, *absent, *notes(table), *shared, *remarks)
    return dataclasses.replace(table, commands=tuple(lines), notes=all_notes)


def _with_facts(columns: Columns | None, names: str | None) -> Columns | None:
    """Prepend the requested facts of methods to the plug-ins' columns."""
    if not facts_of(names, ()):
        return columns
    return lambda records: facts_of(names, records) | dict(columns(records) if columns else {})


def _by_place(rows: Rows) -> Places:
    """The records by row label, evaluated data set and shots."""
    places: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for label, (_, records) in rows.items():
        for record in records:
            places[label, record.spec.evaluated, record.spec.shots].append(record)
    return dict(places)


def _signatures(facts: RecordColumns, groups: Sequence[Group]) -> dict[str, str]:
    found = {"": signature_of(facts.records, facts)}
    for group in groups:
        own = [record for record in facts.records if record.spec.evaluated == group.label]
        found[group.label] = signature_of(own) if own else found[""]
    return found


def _ordered_rows(rows: Rows, names: str | None) -> list[Row]:
    wanted = split_list(names, _every_name(rows)) if names else []

    def key(row: Row) -> tuple[int, str, str]:
        first = min(place(wanted, name) for name in method_names(row.spec))
        return first, row.spec.label if names else row.spec.method, row.label

    return sorted((row for row, _ in rows.values()), key=key)


def _every_name(rows: Rows) -> set[str]:
    return {name for row, _ in rows.values() for name in method_names(row.spec)}


def _conditions(facts: RecordColumns) -> dict[str, tuple[str, ...]]:
    found = {}
    for name, texts in values_of(facts).items():
        about, values = CONDITIONS[name], tuple(sorted(texts))
        if about.prefix:
            shown = starts(values)
            values = tuple(shown[value] for value in values if value)
        if values and not (about.quiet and values == (about.text(about.default),)):
            found[name] = values
    own = set(facts["data text"].values) - {"none"}
    left_out = {
        own_data_text(data, dataset)
        for data, dataset in facts.rows(("data", "dataset")).values
        if data.get(SKIPPED, {}).get(dataset)
    }
    for name, digests in ((OWN_DATA, own), (SKIPPED_IMAGES, left_out)):
        if digests:
            found[name] = tuple(sorted(digests))
    return found


def _all_cells(
    table: Table, rows: Rows, places: Places, columns: Columns | None, facts: RecordColumns
) -> Cells:
    own = _own_data(rows)
    cells: Cells = {}
    table = dataclasses.replace(table, cells=cells)
    halves = {(g.scope, g.dataset, g.average): g for g in table.groups}
    for row in table.rows:
        has = {record.spec.shots > 0 for record in rows[row.label][1]}
        for group, shots in _in_order_of_need(table):
            key = (group.label, row.label, shots)
            if group.derived:
                cell = _derived(table, halves, group, row, shots)
            else:
                members = places.get((row.label, group.label, shots), [])
                metrics = table.metric, table.metrics
                cell = own_cell(group, row, shots, members, *metrics, columns, facts)
                data = own.get((row.label, group.dataset), own["", group.dataset])
                cell = dataclasses.replace(cell, own_data=data)
            # Expect cells at (or above) zero shots only of rows with such records.
            cells[key] = dataclasses.replace(cell, expected=(shots > 0) in has)
    return cells


def _in_order_of_need(table: Table) -> list[tuple[Group, int]]:
    """All (group, shots); derived groups follow those that they are computed from."""
    groups = sorted(table.groups, key=lambda group: (group.scope == "H", group.average))
    return [(group, shots) for shots in table.shots for group in groups if shots in group.shots]


def _own_data(rows: Rows) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Own-data options by (row, data set); row "" holds those of the first row as a fallback."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for label, (_, members) in rows.items():
        for record in members:
            found[label, record.spec.dataset] = record.spec.data
            found.setdefault(("", record.spec.dataset), record.spec.data)
    return found


def _derived(
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
    odd = _without_counterpart(table, base, new) if group.average else []
    if odd and cell.status != "inapplicable":
        return without_counterpart(group, row, shots, odd)
    return cell


def _without_counterpart(table: Table, base: Group, new: Group) -> list[Group]:
    """Members of either average whose data set is missing from the other."""
    sides = table.members(base), table.members(new)
    both = {group.dataset for group in sides[0]} & {group.dataset for group in sides[1]}
    return [group for side in sides for group in side if group.dataset not in both]


def _row_extra(
    table: Table, rows: Rows, columns: Columns | None
) -> dict[tuple[str, str], Mapping[str, Any]]:
    if columns is None:
        return {}
    found = {}
    for label, (_, members) in rows.items():
        for group in table.groups:
            parts = table.members(group) if group.average else (group,)
            names = {part.label for part in parts}
            records = [record for record in members if record.spec.evaluated in names]
            found[group.label, label] = extra_columns(columns, records)
    return found


def with_baseline(table: Table, name: str) -> Table:
    """The table with a difference to the row `name` in every other cell that allows one."""
    baseline = _find_row(table, name)
    cells = dict(table.cells)
    for key, cell in table.cells.items():
        if cell.row is not baseline:
            other = table.cell(cell.group, baseline, cell.shots)
            pair = (cell, other) if cell.expected else ()
            reasons = [part.reason for part in pair if part.status == "inapplicable"]
            cells[key] = dataclasses.replace(
                cell,
                delta=_difference(cell, other, table.metric),
                no_delta="; ".join(dict.fromkeys(reasons)),
            )
    return dataclasses.replace(table, cells=cells, baseline=baseline.label)


def _difference(cell: Cell, other: Cell, metric: str) -> Estimate | None:
    ours, theirs = cell.series.get(metric, {}), other.series.get(metric, {})
    same = {
        seed: _is_known(split) and split == other.splits.get(seed)
        for seed, split in cell.splits.items()
    }
    return paired(ours, theirs, same)


def _is_known(split: Hashable) -> bool:
    """True if the split has a digest; of a tuple of splits, if all of them have one."""
    return all(map(_is_known, split)) if isinstance(split, tuple) else bool(split)


def _find_row(table: Table, name: str) -> Row:
    found = [row for row in table.rows if row.label == name]
    found = found or [row for row in table.rows if name in method_names(row.spec)]
    if len(found) == 1:
        return found[0]
    labels = [row.label for row in table.rows]
    if not found:
        raise absent("baseline", name, labels, "expected a method of the table")
    choices = ", ".join(f"'{row.label}'" for row in found)
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
