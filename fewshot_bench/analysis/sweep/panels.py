"""The sweep of a table: the results of one method over the values of its options, in panels.

`sweep_of` turns the rows of a table into panels, `document` lays them out.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fewshot_bench.analysis.formats.document import (
    BEST,
    INAPPLICABLE,
    MISSING,
    Column,
    Document,
    Entry,
    Grid,
    Line,
    Section,
)
from fewshot_bench.analysis.signature import commands_of
from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.analysis.table.build import spec_of
from fewshot_bench.analysis.table.names import Names
from fewshot_bench.analysis.table.notes import COMMANDS, RANGES, SCREENS, close, marks
from fewshot_bench.analysis.table.table import (
    AVERAGE,
    Group,
    Row,
    Seed,
    Status,
    Table,
    marks_of,
    marks_of_seeds,
)
from fewshot_bench.api.file_texts import show
from fewshot_bench.api.method import hyperparameters
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import CONDITIONS, RunSpec, method_label
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.text import few

WORDS: Mapping[str, str] = {"missing": MISSING, "failed": "failed", "inapplicable": INAPPLICABLE}
# Characters of the axis of a curve on screens.
AXIS = 40
_CHOSEN = "the best of these cells is chosen on test data: report the sweep, not its maximum alone"
_COUNTED = {
    "missing": "missing; not interpolated",
    "partial": "over fewer seeds than the others (marked *)",
}


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """The options of a sweep.

    values: options of the method with their values, in order of display (`{"rank": (1, 2, 4)}`);
    empty for all options that differ between records. each: whether every data set has panels
    beside the average.
    """

    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    each: bool = False


@dataclass(frozen=True, slots=True)
class Combination:
    """One combination of options: `estimate` over seeds, None without a number.

    Status `partial`: a number over fewer seeds than other combinations have. missing: data sets and
    seeds without a number. seeds: those of the number.
    """

    options: Mapping[str, Any]
    status: Status
    estimate: Estimate | None = None
    missing: Sequence[str] = ()
    seeds: Sequence[Seed] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Combinations by (row, column) index; the row is 0 if only one option is swept.

    others: values of the swept options that are neither rows nor columns.
    """

    group: Group
    shots: int
    others: Mapping[str, Any]
    cells: Mapping[tuple[int, int], Combination]


@dataclass(frozen=True)
class Sweep:
    """The panels of a table.

    axes: swept options with their values: columns, then rows, then a panel per combination of the
    others. title: the method with its options of one value, unless that is the default.
    """

    table: Table
    title: str
    axes: Mapping[str, Sequence[Any]]
    panels: Sequence[Panel]

    @property
    def columns(self) -> tuple[str, Sequence[Any]]:
        """The option whose values are columns."""
        return next(iter(self.axes.items()))

    @property
    def rows(self) -> tuple[str, Sequence[Any]] | None:
        """The option whose values are rows; None if only one option is swept."""
        return next(itertools.islice(self.axes.items(), 1, None), None)

    @property
    def blocks(self) -> list[list[Panel]]:
        """The panels of each group and number of shots, which share a scale, in order."""
        parts = itertools.groupby(self.panels, lambda panel: (panel.group.label, panel.shots))
        return [list(panels) for _, panels in parts]

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the table, and those on the combinations."""
        cells = [cell for panel in self.panels for cell in panel.cells.values()]
        counts = Counter[str](cell.status for cell in cells)
        return (
            # Maps show no ranges.
            *(note for note in self.table.notes if self.rows is None or note not in RANGES),
            *(f"{counts[s]} of {len(cells)} cells {t}" for s, t in _COUNTED.items() if counts[s]),
            _CHOSEN,
        )

    def text(self, cell: Combination) -> str:
        """The mean, with `*` if over fewer seeds than others; else a word for the status."""
        if cell.estimate is None:
            return WORDS[cell.status]
        return self.table.main.text(cell.estimate.mean) + "*" * (cell.status == "partial")

    def is_best(self, panel: Panel, cell: Combination) -> bool:
        """True for the best mean of a panel, and for those that equal it as shown."""
        metric = self.table.main
        means = [estimate.mean for estimate in estimates_of([panel])]
        if cell.estimate is None:
            return False
        best = max(means) if metric.higher_is_better else min(means)
        return metric.text(cell.estimate.mean) == metric.text(best)


def estimates_of(panels: Iterable[Panel]) -> list[Estimate]:
    """All numbers of some panels."""
    cells = (cell for panel in panels for cell in panel.cells.values())
    return [cell.estimate for cell in cells if cell.estimate is not None]


def scale_of(panels: Iterable[Panel]) -> tuple[float, float] | None:
    """The smallest and the largest mean of some panels; None without any number."""
    means = [estimate.mean for estimate in estimates_of(panels)]
    return (min(means), max(means)) if means else None


def position(value: float, scale: tuple[float, float]) -> float:
    """The position of a value on a scale, from 0 to 1; 1 on a scale of a single value."""
    low, high = scale
    return (value - low) / (high - low) if high > low else 1.0


def select_swept(
    records: Sequence[Record], options: SweepOptions
) -> tuple[list[Record], tuple[str, ...]]:
    """The records of a sweep, and a note on evaluations that are not drawn beside its average.

    With `options.values`, all other options have their defaults; DataMissingError if there is no
    such record. The average is over plain data sets; halves of classes and transfers are drawn if
    there is none.
    """
    chosen = [
        record
        for record in records
        if record.spec.overrides.keys() <= options.values.keys()
        and all(record.spec.options.get(name) in own for name, own in options.values.items())
    ]
    chosen = chosen if options.values else list(records)
    if not chosen:
        labels = few(sorted({record.spec.label for record in records}))
        raise DataMissingError(
            f"no record has these options: the {len(records)} here have others ({labels}); "
            "fsbench run with the same -o computes them"
        )
    plain = [r for r in chosen if r.spec.classes == "all" and not r.spec.target]
    drawn = {record.spec.evaluated for record in plain}
    others = sorted({record.spec.evaluated for record in chosen} - drawn)
    if options.each or not others or len(drawn) < 2:
        return chosen, ()
    return plain, (f"not drawn beside the average: {', '.join(others)} (--each draws them)",)


def sweep_of(table: Table, options: SweepOptions) -> Sweep:
    """The panels of a table whose rows are combinations of options (`select_swept`).

    UsageError for several methods, and if no option has several values.
    """
    the_method(table, "a sweep")
    spec = table.rows[0].spec
    axes = dict(_values(table.rows, options))
    swept = {name: values for name, values in axes.items() if len(values) > 1}
    if not swept:
        raise UsageError(
            f"nothing varies in the options of {spec.method}@{spec.method_version}: expected an "
            "option with several values, such as -o rank=1,2,4, or another version "
            f"(--method {spec.method}@VERSION)"
        )
    rows = {tuple(row.spec.options[name] for name in swept): row for row in table.rows}
    if len(rows) < len(table.rows):
        raise UsageError("a sweep is of one set of conditions: leave --allow-mixed out")
    single = axes.keys() - swept.keys()
    fixed = {name: value for name, value in spec.overrides.items() if name in single}
    averages = [g for g in table.groups if g.label == AVERAGE and len(table.members(g)) > 1]
    own = sorted((g for g in table.groups if not g.derived), key=lambda group: group.label)
    groups = averages + own if options.each or not averages else averages
    title = Names(table.renamed).row(method_label(spec.method, fixed), spec.method)
    panels = tuple(_panels(table, swept, rows, groups))
    lines, remarks = _commands_of_lacking(table, swept, rows)
    notes, commands = (*table.notes, *remarks), (*table.commands, *lines)
    return Sweep(replace(table, notes=notes, commands=commands), title, swept, panels)


def _commands_of_lacking(
    table: Table, axes: Mapping[str, Sequence[Any]], rows: Mapping[tuple[Any, ...], Row]
) -> tuple[list[str], list[str]]:
    """Commands that run the combinations without any record, and remarks on them."""
    fixed = {k: v for k, v in table.rows[0].spec.overrides.items() if k not in axes}
    choices = []
    for values in itertools.product(*axes.values()):
        if values not in rows:
            named = dict(zip(axes, values, strict=True))
            own = defaults_of(table)
            changed = {k: v for k, v in named.items() if k not in own or own[k] != v}
            choices.append(({**own, **fixed, **named}, {**fixed, **changed}))
    return commands_of(specs_with(table, choices), table.store)


def specs_with(
    table: Table, choices: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> Iterator[RunSpec]:
    """The specs of the first row's cells with other options: pairs of all options and overrides."""
    for options, overrides in choices:
        for cell in table.cells.values():
            if cell.row is table.rows[0] and not cell.group.derived and cell.expected:
                for seed in table.seeds:
                    spec = spec_of(table, cell, seed)
                    yield replace(spec, options=dict(options), overrides=dict(overrides))


def defaults_of(table: Table) -> dict[str, Any]:
    """The value of every option in rows that do not change it."""
    return {
        name: value
        for row in table.rows
        for name, value in row.spec.options.items()
        if name not in row.spec.overrides
    }


def the_method(table: Table, what: str) -> str:
    """The name of the only method; UsageError for several. what: that which needs one."""
    methods = {f"{row.spec.method}@{row.spec.method_version}" for row in table.rows}
    if len(methods) > 1:
        raise UsageError(
            f"{what} is of one method, and there are {few(sorted(methods))}: choose one with "
            "--method"
        )
    return table.rows[0].spec.method


def _values(rows: Sequence[Row], options: SweepOptions) -> Iterable[tuple[str, Sequence[Any]]]:
    """The requested options with their values; else those that any row overrides."""
    if options.values:
        return options.values.items()
    overridden = {name for row in rows for name in row.spec.overrides}
    names = [name for name in rows[0].spec.options if name in overridden]
    return [
        (name, sorted({row.spec.options[name] for row in rows}, key=order_of)) for name in names
    ]


def order_of(value: Any) -> tuple[bool, float, str]:
    """Sort key: numbers by value, then text."""
    is_number = isinstance(value, int | float)
    return not is_number, value if is_number else 0.0, str(value)


def _panels(
    table: Table,
    axes: Mapping[str, Sequence[Any]],
    rows: Mapping[tuple[Any, ...], Row],
    groups: Sequence[Group],
) -> Iterator[Panel]:
    columns, lines, *others = [*axes.values(), [None]][: max(len(axes), 2)]
    for group, shots, fixed in itertools.product(groups, table.shots, itertools.product(*others)):
        members = table.members(group) if group.average else (group,)
        cells = [
            table.cell(m, row, shots) for m in members for row in table.rows if shots in m.shots
        ]
        # Those of any record of these members and shots.
        seeds = sorted({s for c in cells for s in c.group.seeds if s not in c.missing_seeds})
        if not seeds:
            continue
        panel = {}
        for (i, line), (j, column) in itertools.product(enumerate(lines), enumerate(columns)):
            values = (column, line, *fixed)[: len(axes)]
            named = dict(zip(axes, values, strict=True))
            order = [*list(axes)[2:], *list(axes)[1:2], *list(axes)[:1]]
            options = {name: named[name] for name in order}
            row = rows.get(values)
            panel[i, j] = _combine(table, group, members, shots, row, options, seeds)
        yield Panel(group, shots, dict(zip([*axes][2:], fixed, strict=True)), panel)


def _combine(
    table: Table,
    group: Group,
    members: Sequence[Group],
    shots: int,
    row: Row | None,
    options: Mapping[str, Any],
    seeds: Sequence[Seed],
) -> Combination:
    """The combination of a row, None without records; a mean of data sets has all seeds of each."""
    cells = [table.cell(member, row, shots) for member in members] if row else []
    series = [cell.series.get(table.metric, {}) for cell in cells] or [{}] * len(members)
    missing = [
        f"{member.name} seed {seed}"
        for member, values in zip(members, series, strict=True)
        for seed in seeds
        if seed not in values
    ]
    if row is None or not any(series) or (missing and len(members) > 1):
        never = cells and all(cell.status == "inapplicable" for cell in cells)
        status: Status = "failed" if any(cell.failed for cell in cells) else "missing"
        return Combination(options, "inapplicable" if never else status, None, missing)
    estimate = table.cell(group, row, shots).estimates[table.metric]
    return Combination(options, "partial" if missing else "done", estimate, missing, [*series[0]])


def document(sweep: Sweep, form: str) -> Document:
    """The panels as grids, and rows and metadata for CSV and JSON."""
    signature = sweep.table.signatures.get("", "")
    if form in ("csv", "json"):
        lines = rows(sweep)
        return Document(rows=lines, heads=HEADS, data={"meta": _meta(sweep), "rows": lines})
    screen = form in SCREENS
    notes, commands = close(replace(sweep.table, notes=sweep.notes), COMMANDS if screen else None)
    # In print, the panels that share a scale are blocks of one table.
    parts = [[p] for block in sweep.blocks for p in block] if screen else sweep.blocks
    scales = [scale_of(block) for block in sweep.blocks for _ in (block if screen else [0])]
    grids = [_grid(sweep, *pair, screen) for pair in zip(parts, scales, strict=True)]
    return Document((Section(grids=grids),), notes, commands, signature, quiet=True)


def _grid(
    sweep: Sweep, panels: Sequence[Panel], scale: tuple[float, float] | None, screen: bool
) -> Grid:
    """The maps of panels; of a single option a line per value, on screens with a curve."""
    table, (first, columns), panel = sweep.table, sweep.columns, panels[0]
    several = len(panels) > 1
    others = "" if several else _others(panel, ", ")
    name = f"{sweep.title} on {panel.group.name}, {panel.shots}-shot{others}"
    ends = [table.main.text(end) for end in scale or ()]
    caption = ", ".join([table.main.quantity, *([" to ".join(ends)] if ends else [])])
    caption += marks(table)
    signature = table.signatures.get("", "")
    footer = table.signature(panel.group.seeds)

    def entry(panel: Panel, cell: Combination) -> Entry:
        value, is_map = cell.estimate, sweep.rows is not None
        return Entry(
            sweep.text(cell),
            value.around(table.main.digits) if value and not is_map else "",
            rank=BEST if sweep.is_best(panel, cell) else 0,
            shade=position(value.mean, scale) if value and scale and is_map else None,
        )

    if sweep.rows is not None:
        heads = tuple(Column(str(show(value))) for value in columns)
        lines = tuple(
            Line(
                str(show(value)),
                tuple(entry(panel, panel.cells[i, j]) for j in range(len(columns))),
                _others(panel) if several and i == 0 else "",
            )
            for panel in panels
            for i, value in enumerate(sweep.rows[1])
        )
        corner = f"{sweep.rows[0]} \\ {first}"
        return Grid(name, caption, heads, lines, footer, corner, signature)
    head = f"{ends[0]}{ends[1]:>{AXIS - len(ends[0])}}" if screen and ends else ""
    heads = (Column(table.main.short), *([Column(head, "text")] if head else []))
    cells = [panel.cells[0, j] for j in range(len(columns))]
    lines = tuple(
        Line(str(show(value)), (entry(panel, cell), Entry(_point(cell, scale)))[: len(heads)])
        for value, cell in zip(columns, cells, strict=True)
    )
    return Grid(name, caption, heads, lines, footer, first, signature)


def _others(panel: Panel, before: str = "") -> str:
    """The options of a panel that are neither rows nor columns; before: where there are some."""
    text = ", ".join(f"{name} {show(value)}" for name, value in panel.others.items())
    return f"{before}{text}" if text else ""


def _point(cell: Combination, scale: tuple[float, float] | None) -> str:
    """The mean as a point on the axis of a curve: `────●───`."""
    if cell.estimate is None or scale is None:
        return ""
    before = round(position(cell.estimate.mean, scale) * (AXIS - 1))
    return f"{'─' * before}●{'─' * (AXIS - 1 - before)}"


HEADS = ("dataset", "method", "shots", "metric", "mean", "ci95", "n_seeds", "status")


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """One row per combination; None without a number. Option NAME has the column `option_NAME`."""
    stated = dict.fromkeys(mark for row in sweep.table.rows for mark in row.stated)
    own = marks_of(sweep.table.rows[0].spec, list(stated))
    return [
        {
            "dataset": panel.group.name,
            "method": sweep.title,
            "shots": panel.shots,
            **{f"option_{name}": value for name, value in cell.options.items()},
            "metric": sweep.table.metric,
            **{name: _number(cell.estimate, part) for name, part in _PARTS.items()},
            "n_seeds": cell.estimate.n if cell.estimate else 0,
            "status": cell.status,
            "missing": list(cell.missing),
            "marks": [*own, *marks_of_seeds(cell.seeds)],
        }
        for panel in sweep.panels
        for cell in panel.cells.values()
    ]


_PARTS = {"mean": "mean", "ci95": "half", "min": "least", "max": "most"}


def _number(value: Estimate | None, part: str) -> float | None:
    number = getattr(value, part, None)
    return None if number is None else round(number, 6)


def _meta(sweep: Sweep) -> dict[str, Any]:
    """Facts that hold for all rows."""
    names = list(sweep.axes)
    spec, installed = sweep.table.rows[0].spec, registry()
    # A class that is in no package is not at hand.
    is_there = spec.method in installed.methods.entries
    fields = hyperparameters(installed.method_class(spec.method)) if is_there else ()
    defaults = {field.name: field.default for field in fields}
    return {
        "method": sweep.title,
        "metric": sweep.table.metric,
        "columns": names[0],
        "rows": sweep.rows[0] if sweep.rows else None,
        "panels": names[2:],
        "defaults": {name: defaults.get(name) for name in names},
        "conditions": {name: about.of(spec) for name, about in CONDITIONS.items()},
        "notes": list(sweep.notes),
        "signature": sweep.table.signatures.get("", ""),
    }
