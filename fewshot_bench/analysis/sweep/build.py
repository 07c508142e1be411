"""A sweep: panels of cells over one or two options, from records of one method.

`build` is the entry. A mean over several data sets requires every seed on each of them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from fewshot_bench.analysis.conditions import (
    condition,
    marks_in,
    overlaps_of,
    refuse_mixed,
)
from fewshot_bench.analysis.frame import distinct, frame
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.statistics.intervals import Estimate, estimate_runs
from fewshot_bench.analysis.table.cells import (
    READ_SHORT,
    by_seeds,
    mean_series,
    most_short,
    series_of,
    short_of,
)
from fewshot_bench.analysis.table.notes import (
    equal_sets_notes,
    mark_notes,
    run_notes,
    seed_notes,
    short_notes,
    toy_notes,
)
from fewshot_bench.analysis.table.table import AVERAGE, Seed, Short, marks_of
from fewshot_bench.api import method_files
from fewshot_bench.api.image_facts import overlap_texts, split_digest
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, canonical_json

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["done", "partial", "failed", "missing", "inapplicable"]


@dataclass(frozen=True, slots=True)
class Axis:
    """A swept option with its values, in the order given, and its default."""

    name: str
    values: tuple[Any, ...]
    default: Any


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of options: `estimate` over seeds, None without a number.

    Status `partial`: a number over fewer seeds than other cells have. seeds: those of the number.
    """

    options: Mapping[str, Any]
    status: Status
    estimate: Estimate | None = None
    missing: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Cells over rows and columns, with all other options fixed.

    group: the data set, or `average`. others: values of swept options that are neither rows nor
    columns. cells: by (row, column) index; the row is 0 if only one option is swept.
    """

    group: str
    shots: int
    others: Mapping[str, Any]
    cells: Mapping[tuple[int, int], Cell]

    @property
    def title(self) -> str:
        """The values of the other options, which distinguish the panel within its group."""
        return ", ".join(f"{name} {value}" for name, value in self.others.items())

    def is_best(self, cell: Cell) -> bool:
        """True for the largest mean; cells that are equal to two decimals share the place."""
        means = [other.estimate.mean for other in self.cells.values() if other.estimate]
        return cell.estimate is not None and f"{cell.estimate.mean:.2f}" == f"{max(means):.2f}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """All panels of a sweep.

    rows: None if only one option is swept. fixed: options with a single value other than the
    default.
    """

    method: str
    metric: Metric
    columns: Axis
    rows: Axis | None
    others: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    panels: tuple[Panel, ...]
    conditions: Mapping[str, str]
    notes: tuple[str, ...]
    signature: str
    marks: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The method with its fixed options."""
        inner = ",".join(f"{name}={value}" for name, value in self.fixed.items())
        method = method_files.short(self.method)
        return f"{method}[{inner}]" if inner else method

    @property
    def conditions_text(self) -> str:
        """Conditions that all records share, on one line; the weights digest is shortened."""
        shown = {**self.conditions, "weights": self.conditions.get("weights", "")[:12]}
        return "; ".join(f"{name} {value}" for name, value in shown.items() if value)

    @property
    def blocks(self) -> list[list[Panel]]:
        """The panels of each group and number of shots, which share a scale, in order."""
        found: dict[tuple[str, int], list[Panel]] = {}
        for panel in self.panels:
            found.setdefault((panel.group, panel.shots), []).append(panel)
        return list(found.values())


def estimates_of(panels: Iterable[Panel]) -> list[Estimate]:
    """All numbers of some panels."""
    cells = (cell for panel in panels for cell in panel.cells.values())
    return [cell.estimate for cell in cells if cell.estimate is not None]


def scale_of(panels: Iterable[Panel]) -> tuple[float, float] | None:
    """The smallest and the largest mean of some panels; None without any number."""
    means = [value.mean for value in estimates_of(panels)]
    return (min(means), max(means)) if means else None


# Records by (data set, shots, values of the swept options as JSON).
Found = Mapping[tuple[str, int, str], list[Record]]
_SHORT = ("evaluated", "shots", "protocol", "short")
_CHOSEN = "the best of these cells is chosen on test data: report the sweep, not its maximum alone"


def build(
    method: str,
    axes: Sequence[Axis],
    records: Sequence[Record],
    *,
    fixed: Mapping[str, Any] | None = None,
    metric: Metric = METRICS["top1"],
    each: bool = False,
) -> Sweep:
    """The panels of records of one method; UsageError when their conditions differ.

    axes: options with several values: the first gives the columns, the second the rows, the others
    a panel per combination. each: a panel for every data set, not only the average.
    """
    refuse_mixed(frame(records), sweep=True)
    records, left = _drawn(records, each)
    data = frame(records)
    stated = marks_in(data)
    columns, rows, others = axes[0], axes[1] if len(axes) > 1 else None, tuple(axes[2:])
    found: defaultdict[tuple[str, int, str], list[Record]] = defaultdict(list)
    names = [axis.name for axis in axes]
    for record in records:
        spec = record.spec
        chosen = {name: spec.options[name] for name in names}
        found[spec.evaluated, spec.shots, canonical_json(chosen)].append(record)
    panels = tuple(_panels(found, records, (columns, rows, others), metric.name, each))
    return Sweep(
        method=method,
        metric=metric,
        columns=columns,
        rows=rows,
        others=others,
        fixed=dict(fixed or {}),
        panels=panels,
        conditions={name: condition(records[0].spec, name) for name in CONDITIONS},
        notes=(
            *toy_notes(record.spec for record in records[:1]),
            *run_notes((method, record.spec) for record in records[:1]),
            *mark_notes([(method, stated)]),
            *seed_notes(set(map(Seed.of, records))),
            *equal_sets_notes(_splits(records).items()),
            *short_notes(_short(data)),
            *_notes(panels),
            *overlap_texts(overlaps_of(data)).values(),
            *left,
            _CHOSEN,
        ),
        marks=tuple(marks_of(records[0].spec, stated)),
        signature=signature_of(records),
    )


def _drawn(records: Sequence[Record], each: bool) -> tuple[Sequence[Record], list[str]]:
    """The records that are drawn, and a note on evaluations that are not.

    The average is over plain data sets; halves of classes and transfers are drawn if there is none.
    """
    plain = [record for record in records if _is_plain(record)]
    others = sorted({r.spec.evaluated for r in records} - {r.spec.evaluated for r in plain})
    if each or not others or len({record.spec.evaluated for record in plain}) < 2:
        return records, []
    return plain, [f"not drawn beside the average: {', '.join(others)} (--each draws them)"]


def _panels(
    found: Found,
    records: Sequence[Record],
    axes: tuple[Axis, Axis | None, tuple[Axis, ...]],
    metric: str,
    each: bool,
) -> Iterator[Panel]:
    columns, rows, others = axes
    names = list(dict.fromkeys(sorted(record.spec.evaluated for record in records)))
    plain = [n for n in names if any(r.spec.evaluated == n and _is_plain(r) for r in records)]
    groups: list[tuple[str, list[str]]] = [(AVERAGE, plain)] if len(plain) > 1 else []
    if each or not groups:
        groups += [(name, [name]) for name in names]
    shots = sorted({record.spec.shots for record in records})
    combinations = list(itertools.product(*(axis.values for axis in others)))
    for (group, members), k, values in itertools.product(groups, shots, combinations):
        fixed = dict(zip((axis.name for axis in others), values, strict=True))
        seeds = {Seed.of(r) for r in records if r.spec.shots == k and r.spec.evaluated in members}
        if not seeds:
            continue
        cells = {}
        for i, row in enumerate(rows.values if rows else (None,)):
            for j, column in enumerate(columns.values):
                options = {**fixed, **({rows.name: row} if rows else {}), columns.name: column}
                key = canonical_json(options)
                mine = [found.get((name, k, key), []) for name in members]
                cells[i, j] = _cell(options, members, mine, seeds, metric)
        yield Panel(group, k, fixed, cells)


def _is_plain(record: Record) -> bool:
    return record.spec.classes == "all" and not record.spec.target


def _cell(
    options: Mapping[str, Any],
    members: Sequence[str],
    records: Sequence[Sequence[Record]],
    seeds: Iterable[Seed],
    metric: str,
) -> Cell:
    """The cell of one combination; over several data sets only if each has every seed."""
    wanted = sorted(seeds)
    series = [_series(found, metric) for found in records]
    missing = tuple(
        f"{name} seed {seed}"
        for name, values in zip(members, series, strict=True)
        for seed in wanted
        if seed not in values
    )
    flat = [record for found in records for record in found]
    if missing and (len(members) > 1 or not any(series)):
        return Cell(options, _status(flat), None, missing)
    means = mean_series(series, [seed for seed in wanted if seed in series[0]])
    status: Status = "partial" if missing else "done"
    return Cell(options, status, estimate_runs(means), missing, tuple(means))


def _series(records: Iterable[Record], metric: str) -> dict[Seed, float]:
    done = {seed: r for seed, r in by_seeds(records).items() if r.status == "done"}
    return series_of(done, metric)


def _status(records: Sequence[Record]) -> Status:
    if any(record.status == "failed" for record in records):
        return "failed"
    never = records and all(record.status == "inapplicable" for record in records)
    return "inapplicable" if never else "missing"


def _splits(records: Iterable[Record]) -> dict[str, dict[Seed, str]]:
    """Digests of the splits by seed, of every data set and number of shots above zero."""
    found: defaultdict[str, dict[Seed, str]] = defaultdict(dict)
    for record in records:
        if record.status == "done" and record.spec.shots:
            where = f"{record.spec.evaluated}, {record.spec.shots}-shot"
            found[where][Seed.of(record)] = split_digest(record.split)
    return found


def _short(data: pd.DataFrame) -> Iterator[tuple[str, Short, str]]:
    """Place, short classes and protocol of every data set and number of shots above zero."""
    found: defaultdict[tuple[str, str], list[Short]] = defaultdict(list)
    for evaluated, shots, protocol, *facts in distinct(data, *_SHORT, *READ_SHORT):
        if shots:
            found[f"{evaluated}, {shots}-shot", protocol].append(short_of(*facts))
    for (where, protocol), values in found.items():
        yield where, most_short(values), protocol


def _notes(panels: Sequence[Panel]) -> Iterator[str]:
    cells = [cell for panel in panels for cell in panel.cells.values()]
    counts: Counter[str] = Counter(cell.status for cell in cells)
    for status, text in (
        (
            "missing",
            "missing: no result of some data set or seed (--dataset NAMES runs them); "
            "not interpolated",
        ),
        ("failed", "failed; run again with --retry-failed"),
        ("partial", "over fewer seeds than the others (marked *)"),
        ("inapplicable", "not applicable to this method"),
    ):
        if counts[status]:
            yield f"{counts[status]} of {len(cells)} cells {text}"
