"""Build the table of records: its groups and rows, cells over seeds, averages, differences.

`build` is the entry; records that must not share a table are refused before any number is computed.
`status`, `errors` and `reason` explain a cell without a number.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import starmap
from operator import attrgetter
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
from fewshot_bench.analysis.filters import (
    absent,
    expand_datasets,
    expand_methods,
    method_names,
    place,
)
from fewshot_bench.analysis.frame import decode, distinct, frame, load, own_data_text, values
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.analysis.statistics.intervals import (
    Estimate,
    estimate_runs,
    pair_runs,
    rounded,
)
from fewshot_bench.analysis.table.columns import check_columns, facts_of
from fewshot_bench.analysis.table.costs import COSTS, Cost, number
from fewshot_bench.analysis.table.names import Names, arrange
from fewshot_bench.analysis.table.notes import notes
from fewshot_bench.analysis.table.significance import Answers, significance, variations
from fewshot_bench.analysis.table.table import (
    AVERAGE,
    Cell,
    Group,
    Row,
    Scope,
    Seed,
    Short,
    Status,
    Table,
)
from fewshot_bench.api.dataset import SKIPPED
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import STATUSES, Record, overlap_texts
from fewshot_bench.api.spec import AUTO, CONDITIONS, RunSpec, settle_exif
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

# Returns extra columns by title for the records of one line (hook `table_columns`).
Columns = Callable[[Sequence[Record]], Mapping[str, Any]]
# A column of the frame by its name, with the value of each record.
Facts = Mapping[str, Sequence[Any]]
Series = Mapping[Seed, float]

# Of differences, in points: records round their metrics.
_ROUNDING = 1e-5
_SHORT = (
    *("split.short_classes", "split.fitted_classes", "split.classes"),
    *("split.smallest_class", "split.short_val"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """Options of a table; `method`, `dataset` and `columns` are comma lists in display order.

    metrics: metrics computed for cells, by name. sign_each: whether every group gets a signature of
    its own, since groups may be used separately. rename: names to replace, as `OLD=NEW`. notes:
    further notes below the table. older: (method, version) pairs that no command computes.
    elsewhere: names that are known although these records lack them, as the baseline of others.
    titles: conditions that blocks of a table may be called by.
    groups: titles of groups of rows, and their names. ours: the method that stands out. costs:
    those that are read.
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
    titles: frozenset[str] = frozenset()
    groups: tuple[tuple[str, str], ...] = ()
    ours: str | None = None
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=lambda: COSTS)


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
    costs = (cost.source for cost in options.costs.values())
    numbers = (f"metrics.{name}" for name in options.metrics)
    read = ("record", "split", "split.verified", *_SHORT, *costs, *numbers)
    load(data, *read[1:])
    if not options.allow_mixed:
        refuse_mixed(data)
    rows = assign_rows(data)
    conditions = _conditions(data)
    others = options.elsewhere.union(options.titles, conditions.get("backbone", ()))
    names = Names.read(options.rename, rows, groups, others)
    rows, groups = names.rows(rows), names.groups(groups)
    labels = {old: row.label for old, row in rows.items()}
    arranged = arrange(
        _order_rows(list(rows.values()), options.method),
        labels,
        options.groups,
        options.ours,
        options.elsewhere,
        is_ordered=bool(options.method),
    )
    seeds = sorted(distinct(data, "split_seed", "train_seed"))
    here = [record for record in records if not record.source]
    table = Table(
        rows=tuple(arranged),
        groups=groups,
        shots=tuple(sorted(shots for (shots,) in distinct(data, "shots"))),
        seeds=tuple(Seed(*pair) for pair in seeds),
        metric=options.metric,
        metrics=options.metrics,
        conditions=conditions,
        records=len(here),
        cells={},
        sort=options.sort,
        signatures=_signatures(here, groups if options.sign_each else ()),
        renamed=names.new,
        costs=options.costs,
        store=options.store,
    )
    columns = _add_facts(columns, options.columns)
    by_row: dict[str, list[int]] = {row.label: [] for row in rows.values()}
    for index, label in enumerate(values(data, "line")):
        by_row[rows[label].label].append(index)
    own = {label: [records[index] for index in part] for label, part in by_row.items()}
    extra = _row_extra(table, own, columns)
    titles = {title for values in extra.values() for title in values}
    table = replace(
        table,
        cells=_cells(table, by_row, {name: values(data, name) for name in read}, columns),
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
        table = replace(table, cells=_with_test_intervals(table))
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


def _signatures(records: Sequence[Record], groups: Sequence[Group]) -> dict[str, str]:
    signatures = {"": signature_of(records) if records else ""}
    for group in groups:
        own = [record for record in records if record.spec.evaluated == group.label]
        signatures[group.label] = signature_of(own) if own else signatures[""]
    return signatures


def _order_rows(rows: Sequence[Row], names: str | None) -> list[Row]:
    every = {name for row in rows for name in method_names(row.spec)}
    wanted = expand_methods(names, every) if names else []

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
        if shown and not (about.quiet and shown == (about.text(about.as_asked(about.default)),)):
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
    table: Table, by_row: Mapping[str, Sequence[int]], facts: Facts, columns: Columns | None
) -> dict[tuple[str, str, int], Cell]:
    """All cells. by_row: the records of each row, as numbers of rows of the frame."""
    specs = [record.spec for record in facts["record"]]
    # Options of own data by row and data set, and by data set those of the first row.
    own: dict[tuple[str, str], Mapping[str, Any]] = {}
    for label, members in by_row.items():
        for spec in map(specs.__getitem__, members):
            own[label, spec.dataset] = spec.data
            own.setdefault(("", spec.dataset), spec.data)
    cells: dict[tuple[str, str, int], Cell] = {}
    table = replace(table, cells=cells)
    halves = {(group.scope, group.dataset, group.average): group for group in table.groups}
    for row in table.rows:
        parts: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        for index in by_row[row.label]:
            parts[specs[index].evaluated, specs[index].shots].append(index)
        has = {shots > 0 for _, shots in parts}
        for group, shots in _in_order_of_need(table):
            empty = Cell(group, row, shots, "missing")
            if group.derived:
                cell = _derive(table, halves, empty)
            else:
                part = parts.get((group.label, shots), [])
                cell = _fill(table, empty, part, facts, columns)
                data = own.get((row.label, group.dataset), own["", group.dataset])
                cell = replace(cell, own_data=data)
            # Expect cells at (or above) zero shots only of rows with such records, and of other
            # sources no more than they have.
            expected = (shots > 0) in has and not (row.source and cell.status == "missing")
            cells[group.label, row.label, shots] = replace(cell, expected=expected)
    return cells


def _in_order_of_need(table: Table) -> list[tuple[Group, int]]:
    """All (group, shots); derived groups follow those that they are computed from."""
    groups = sorted(table.groups, key=lambda group: (group.scope == "H", group.average))
    return [(group, shots) for shots in table.shots for group in groups if shots in group.shots]


def _derive(table: Table, groups: Mapping[tuple[Scope, str, bool], Group], empty: Cell) -> Cell:
    """The cell of an average or harmonic mean. groups: by scope, data set and `average`."""
    group, row, shots = empty.group, empty.row, empty.shots
    if group.scope != "H":
        return _average(table, empty, [table.cell(g, row, shots) for g in table.members(group)])
    scopes: Sequence[Scope] = ("base", "new")
    halves = [groups[scope, group.dataset, group.average] for scope in scopes]
    cell = _harmonic(table, empty, [table.cell(half, row, shots) for half in halves])
    if not group.average or cell.status == "inapplicable":
        return cell
    sides = [table.members(half) for half in halves]
    both = {g.dataset for g in sides[0]} & {g.dataset for g in sides[1]}
    odd = [g.name for side in sides for g in side if g.dataset not in both]
    reason = f"base and new are not of the same data sets: only one half of {', '.join(odd)}"
    return replace(empty, reason=reason) if odd else cell


def _fill(
    table: Table, empty: Cell, members: Sequence[int], facts: Facts, columns: Columns | None
) -> Cell:
    """The cell of these records; UsageError when two have the same seeds.

    A cell without finished records is inapplicable if any record is: no run can compute it, so none
    of its seeds counts as missing.
    """
    records = [facts["record"][index] for index in members]
    present = _by_seed(records)
    by_status = {status: [r for r in records if r.status == status] for status in STATUSES}
    failed, inapplicable = by_status["failed"], by_status["inapplicable"]
    done = {Seed.of(r): (r, index) for r, index in zip(records, members, strict=True)}
    done = {seed: done[seed] for seed in present if present[seed].status == "done"}

    def of(name: str) -> list[Any]:
        return [facts[name][index] for _, index in done.values()]

    series = {
        name: _drop_none(zip(done, map(number, of(f"metrics.{name}")), strict=True))
        for name in table.metrics
    }
    missing = tuple(seed for seed in empty.group.seeds if seed not in present)
    if inapplicable and not done:
        missing = ()
    status: Status = "failed" if failed else "missing"
    if series[table.metric]:
        status = "partial" if failed or missing or inapplicable else "done"
    elif inapplicable and not done:
        status = "inapplicable"
    verified = set(of("split.verified"))
    short = dict.fromkeys(zip(*map(of, _SHORT), strict=True)) if empty.shots else {}
    reason = ""
    if inapplicable:
        reason = "; ".join(sorted(set(map(inapplicable_reason, inapplicable))))
        seeds = ",".join(map(str, sorted(map(Seed.of, inapplicable))))
        reason += f" (seeds {seeds})" if done else ""
    elif done and not series[table.metric] and not failed:
        reason = f"no record has the metric {table.metric}"
    return replace(
        empty,
        status=status,
        estimates=_estimates(series),
        series=series,
        splits=dict(zip(done, of("split"), strict=True)),
        records={seed: record for seed, (record, _) in done.items()},
        missing_seeds=missing,
        failed=len(failed),
        errors=tuple(sorted({str((r.error or {}).get("type") or "unknown error") for r in failed})),
        reason=reason,
        costs={
            name: cost.together([v for v in map(number, of(cost.source)) if v is not None])
            for name, cost in table.costs.items()
        },
        verified=None if verified <= {None} else verified == {True},
        short=max(starmap(_shorten, short), key=attrgetter("classes", "val"), default=Short()),
        extra=_extra_columns(columns, records),
    )


def _drop_none(values: Iterable[tuple[Seed, float | None]]) -> dict[Seed, float]:
    return {seed: value for seed, value in values if value is not None}


def _shorten(short: Any, fitted: Any, classes: Any, smallest: Any, val: Any) -> Short:
    """The short classes of a record, of its entries `_SHORT`."""
    return Short(*(int(number(n) or 0) for n in (short, fitted or classes, smallest, val)))


def _extra_columns(columns: Columns | None, records: Sequence[Record]) -> Mapping[str, Any]:
    """The plug-ins' columns of these records, without inapplicable ones."""
    applicable = [record for record in records if record.status != "inapplicable"]
    return columns(applicable) if columns and applicable else {}


def inapplicable_reason(record: Record) -> str:
    """The method's reason why this cell is not applicable."""
    return str((record.error or {}).get("message") or "not applicable")


def _by_seed(records: Iterable[Record]) -> dict[Seed, Record]:
    """The records by their seeds, in order; UsageError if two have the same pair."""
    seen: dict[Seed, Record] = {}
    for record in records:
        other = seen.setdefault(Seed.of(record), record)
        if other is not record:
            raise UsageError(
                f"two records of {record.spec.describe()}: {other.spec.key()[:12]} and "
                f"{record.spec.key()[:12]}; keep one of the two files in the store"
            )
    return dict(sorted(seen.items()))


def _estimates(series: Mapping[str, Series]) -> dict[str, Estimate]:
    """Mean and interval of every metric that has values."""
    every = {metric: estimate_runs(own) for metric, own in series.items()}
    return {metric: estimate for metric, estimate in every.items() if estimate is not None}


def _average(table: Table, empty: Cell, cells: Sequence[Cell]) -> Cell:
    """The mean over groups, per seed first; missing unless every one has the same seeds."""
    if hole := _hole(empty, cells):
        return hole
    if len({frozenset(cell.splits) for cell in cells}) > 1:
        return replace(empty, reason=_unequal_seeds(cells))
    series = {}
    for name in table.metrics:
        parts = [cell.series.get(name, {}) for cell in cells]
        seeds = parts[0] if len({frozenset(part) for part in parts}) == 1 else ()
        series[name] = {
            seed: rounded(math.fsum(part[seed] for part in parts) / len(parts)) for seed in seeds
        }
    if not series[table.metric]:
        return replace(empty, reason=f"the metric {table.metric} is not there for all seeds")
    return _combine(table, empty, cells, series, cells[0].splits)


def _harmonic(table: Table, empty: Cell, halves: Sequence[Cell]) -> Cell:
    """The harmonic mean 2bn / (b + n) of base and new accuracy, per seed that has both.

    Metrics for which lower is better have none, nor do those with a value below zero.

    For averages, it is the harmonic mean of the average base and the average new accuracy, as in
    CoCoOp (Zhou et al., CVPR 2022, table 1), not the average of harmonic means.
    """
    if hole := _hole(empty, halves):
        return hole
    series: dict[str, Series] = {}
    for name, about in table.metrics.items():
        base, new = (half.series.get(name, {}) for half in halves)
        negative = min([*base.values(), *new.values()], default=0) < 0
        both = () if negative or not about.higher_is_better else base.keys() & new.keys()
        series[name] = {
            seed: rounded(2 * base[seed] * new[seed] / (base[seed] + new[seed] or 1))
            for seed in base
            if seed in both
        }
        if name == table.metric and not both:
            below = "a harmonic mean of numbers below zero says nothing"
            return replace(empty, reason=below if negative else _unequal_seeds(halves))
    return _combine(table, empty, halves, series, series[table.metric])


def _hole(empty: Cell, cells: Sequence[Cell]) -> Cell | None:
    """The cell without numbers if any part lacks them (no mean over the rest); else None."""
    inapplicable = [cell.reason for cell in cells if cell.status == "inapplicable"]
    if inapplicable:
        reason = "; ".join(dict.fromkeys(inapplicable))
        return replace(empty, status="inapplicable", reason=reason)
    holes = [cell for cell in cells if cell.status in ("missing", "failed")]
    if not holes:
        return None
    if all(cell.group.average for cell in holes):
        reason = "; ".join(dict.fromkeys(cell.reason for cell in holes))
    else:
        reason = f"no result on {', '.join(cell.group.name for cell in holes)}"
    return replace(empty, reason=reason)


def _combine(
    table: Table,
    empty: Cell,
    cells: Sequence[Cell],
    series: Mapping[str, Series],
    seeds: Iterable[Seed],
) -> Cell:
    """The cell of these ones' mean, which has the splits of all of them at the seeds."""
    splits: dict[Seed, Hashable] = {
        seed: tuple(cell.splits[seed] for cell in cells) for seed in seeds
    }
    whole = all(cell.status == "done" and len(cell.splits) == len(splits) for cell in cells)
    return replace(
        empty,
        status="done" if whole else "partial",
        estimates=_estimates(series),
        series=series,
        splits=splits,
        missing_seeds=tuple(sorted({seed for cell in cells for seed in cell.missing_seeds})),
        failed=sum(cell.failed for cell in cells),
        costs={
            name: cost.together([cell.costs.get(name) for cell in cells])
            for name, cost in table.costs.items()
        },
    )


def _unequal_seeds(cells: Sequence[Cell]) -> str:
    by_seeds: defaultdict[str, list[str]] = defaultdict(list)
    for cell in cells:
        by_seeds[",".join(map(str, cell.splits))].append(cell.group.name)
    usual = max(by_seeds, key=lambda seeds: len(by_seeds[seeds]))
    names = by_seeds.pop(usual)
    parts = [f"{seeds} on {', '.join(others)}" for seeds, others in by_seeds.items()]
    where = f"on {', '.join(names)}" if len(names) <= 2 else "elsewhere"
    return f"seeds differ: {'; '.join([*parts, f'{usual} {where}'])}"


def _row_extra(
    table: Table, by_row: Mapping[str, Sequence[Record]], columns: Columns | None
) -> dict[tuple[str, str], Mapping[str, Any]]:
    extra: dict[tuple[str, str], Mapping[str, Any]] = {}
    for group in table.groups if columns else ():
        parts = table.members(group) if group.average else (group,)
        names = {part.label for part in parts}
        for label, records in by_row.items():
            own = [record for record in records if record.spec.evaluated in names]
            extra[group.label, label] = _extra_columns(columns, own)
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


def _with_test_intervals(table: Table) -> dict[tuple[str, str, int], Cell]:
    """All cells; a difference that was tested over the same seeds has the interval of its test."""
    cells = dict(table.cells)
    for key, cell in cells.items():
        contrast, delta = table.contrast(cell), cell.delta
        if contrast is None or delta is None or delta.half is None:
            continue
        result = contrast.result
        is_same = math.isclose(result.difference, delta.mean, abs_tol=_ROUNDING)
        if is_same and (result.error or result.difference):
            half = (result.high - result.low) / 2 if result.bounded else None
            cells[key] = replace(cell, delta=replace(delta, half=half))
    return cells


def _is_digest(split: Hashable) -> bool:
    """True if the split has a digest; of a tuple of splits, if all of them have one."""
    return all(map(_is_digest, split)) if isinstance(split, tuple) else bool(split)


def _find_row(table: Table, name: str) -> Row:
    rows = [row for row in table.rows if row.label == name]
    if not rows:
        every = {own for row in table.rows for own in method_names(row.spec)}
        meant = {*expand_methods(name, every)}
        rows = [row for row in table.rows if not meant.isdisjoint(method_names(row.spec))]
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
        if group.derived or not cell.expected or cell.row.source:
            continue
        for seed in cell.missing_seeds:
            yield spec_of(table, cell, seed)


def spec_of(table: Table, cell: Cell, seed: Seed) -> RunSpec:
    """The spec of a cell of a table for a command that runs it."""
    group = cell.group
    stated = table.conditions.get("exif", (AUTO,))
    exif = stated[0] if len(stated) == 1 else CONDITIONS["exif"].of(cell.row.spec)
    return replace(
        cell.row.spec,
        exif=settle_exif(exif, group.dataset, group.target),
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


_ORDER: Sequence[Scope] = ("all", "base", "new", "H", "transfer")


def table_groups(
    data: pd.DataFrame, names: str | None, *, harmonic: bool = True
) -> tuple[Group, ...]:
    """Evaluated groups and their harmonic means, in order, then the averages of each scope.

    names: the user's comma list, which sets the order of the data sets. harmonic: whether to add
    harmonic means of base and new. Raises UsageError when two groups would have the same name.
    """
    evaluations = distinct(data, "evaluated", "dataset", "classes", "target")
    evaluated = {
        Group(label, "transfer" if target else classes, dataset, target)
        for label, dataset, classes, target in evaluations
    }
    base = {group.dataset for group in evaluated if group.scope == "base"}
    new = {group.dataset for group in evaluated if group.scope == "new"}
    if harmonic:
        evaluated |= {Group(f"{dataset} (H)", "H", dataset) for dataset in base & new}
    ordered = _order(evaluated, names)
    groups = [*ordered, *_averages(ordered)]
    meanings = [(g.label, (g.scope, g.dataset, str(g.average))) for g in groups if g.derived]
    _refuse_ambiguous([*meanings, *((label, tuple(rest)) for label, *rest in evaluations)])
    return tuple(_add_axes(data, groups))


def _order(groups: Iterable[Group], names: str | None) -> list[Group]:
    """Order of the comma list; else by data set (all, base, new, H), transfers last."""
    groups = list(groups)
    every = {name for group in groups for name in (group.label, group.dataset, group.target)}
    wanted = expand_datasets(names, every) if names else []

    def key(group: Group) -> tuple[int, bool, str, int, str]:
        own = (group.label, group.dataset, group.target)
        asked = min(place(wanted, name) for name in own)
        transferred = group.scope == "transfer"
        return asked, transferred, group.dataset, _ORDER.index(group.scope), group.target

    return sorted(groups, key=key)


def _averages(groups: Sequence[Group]) -> list[Group]:
    """One average per scope, except for plain data sets only over several groups."""
    averages = []
    for scope in _ORDER:
        members = [group for group in groups if group.scope == scope]
        sources = dict.fromkeys(group.dataset for group in members)
        if scope == "all" and members:
            averages.append(Group(AVERAGE, scope, average=True))
        elif scope == "transfer" and len(sources) > 1:
            for source in sources:
                label = f"{AVERAGE} (transfer from {source})"
                average = Group(label, scope, source, average=True)
                averages += [average] if sum(map(average.averages, members)) > 1 else []
        elif len(members) > 1:
            averages.append(Group(f"{AVERAGE} ({scope})", scope, average=True))
    return averages


def _refuse_ambiguous(meanings: Iterable[tuple[str, tuple[str, ...]]]) -> None:
    """UsageError for a label with two meanings: a user's folder may be named `dtd (base)`."""
    by_label: dict[str, tuple[str, ...]] = {}
    for label, meaning in meanings:
        if by_label.setdefault(label, meaning) != meaning:
            raise UsageError(
                f"'{label}' stands for two things in this table, one of them a data set of that "
                "name: rename that data set, or choose with --dataset or --classes"
            )


def _add_axes(data: pd.DataFrame, groups: Sequence[Group]) -> list[Group]:
    """The groups with the shots and seeds that records of their kind of evaluation have.

    Base and new are two halves of one experiment: shots and seeds of one are expected of the other.
    """
    shots: defaultdict[str, set[int]] = defaultdict(set)
    seeds: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    kinds = {"all": "all", "transfer": "transfer"}
    for target, classes, k, *pair in distinct(
        data, "target", "classes", "shots", "split_seed", "train_seed"
    ):
        kind = kinds.get("transfer" if target else classes, "halves")
        shots[kind].add(k)
        seeds[kind].add((pair[0], pair[1]))
    return [
        dataclasses.replace(
            group,
            shots=tuple(sorted(shots[kinds.get(group.scope, "halves")])),
            seeds=tuple(Seed(*pair) for pair in sorted(seeds[kinds.get(group.scope, "halves")])),
        )
        for group in groups
    ]
