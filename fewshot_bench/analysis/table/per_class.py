"""Accuracy of single classes: per method and number of shots, over the seeds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.formats.document import (
    BEST,
    MISSING,
    SECOND,
    Column,
    Document,
    Entry,
    Grid,
    Line,
    Section,
)
from fewshot_bench.analysis.statistics.intervals import Estimate, estimate_runs
from fewshot_bench.analysis.table.export import meta
from fewshot_bench.analysis.table.grids import most_common
from fewshot_bench.analysis.table.notes import cell_notes
from fewshot_bench.analysis.table.table import Group, Row, Seed, Table, marks_of
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import StoreError

if TYPE_CHECKING:
    from fewshot_bench.store.predictions import Outcome, Outcomes

HEADS = (
    *("dataset", "method", "shots", "label", "classname", "images", "n_seeds"),
    *("accuracy_mean", "accuracy_ci95", "accuracy_min", "accuracy_max", "precision_mean"),
    *("f1_mean", "marks"),
)
# With more than twice this many classes, tables show only this many lowest and highest ones.
ENDS = 5


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class in one cell of the table; all numbers in percent, None if undefined.

    label: class index. accuracy: share of its images that are predicted correctly. precision: mean
    over the seeds that predicted the class at all.
    """

    group: Group
    row: Row
    shots: int
    label: int
    name: str
    images: int
    accuracy: Estimate
    precision: Estimate | None
    f1: Estimate | None


def document(
    table: Table, records: Sequence[Record], outcomes: Outcomes, before: Sequence[str] = ()
) -> Document:
    """A grid per data set of the accuracy of its classes, and all scores for CSV and JSON.

    records: those that the table was built from; a note counts those without logits. before: notes
    that stand first.
    """
    outcomes.prepare(records)
    scores: list[ClassScore] = []
    absent = 0
    for group in table.groups:
        lines: list[tuple[Row, int, dict[Seed, Outcome], list[Record]]] = []
        for row in table.rows:
            for shots in group.shots if not group.derived else ():
                usable: dict[Seed, Outcome] = {}
                own: list[Record] = []
                for seed, record in table.cell(group, row, shots).records.items():
                    try:
                        usable[seed] = outcomes.of(record)
                        own.append(record)
                    except StoreError:
                        absent += 1
                lines.append((row, shots, usable, own))
        every = [record for *_, own in lines for record in own]
        for row, shots, usable, own in lines:
            if usable:
                # Class names that the cell lacks are those of others.
                classes = next(iter(usable.values())).classes
                names = class_names([*own, *every], classes)
                scores += _scores(group, row, shots, usable, names)
    several = "records are" if absent > 1 else "record is"
    lacking = [f"{absent} finished {several} left out: no logits that can be used"]
    notes = (*before, *cell_notes(table), *(lacking if absent else []))
    rows = [dict(zip(HEADS, _values(score), strict=True)) for score in scores]
    about = meta(table) | {"metric": "accuracy of single classes", "notes": notes}
    sections = (Section(grids=list(_grids(table, scores))),)
    return Document(sections, notes, rows=rows, heads=HEADS, data={"meta": about, "rows": rows})


def _scores(
    group: Group, row: Row, shots: int, outcomes: Mapping[Seed, Outcome], names: Sequence[str]
) -> Iterator[ClassScore]:
    """The scores of a cell, by its outcomes per seed."""
    classes = [outcome.per_class for outcome in outcomes.values()]
    columns = zip(
        *(zip(*(getattr(c, part).tolist() for c in classes), strict=True) for part in _PARTS),
        strict=True,
    )
    for label, (images, *numbers) in enumerate(columns):
        accuracy, precision, f1 = (_estimate(list(outcomes), own) for own in numbers)
        if accuracy is not None:
            yield ClassScore(
                group, row, shots, label, names[label], int(images[0]), accuracy, precision, f1
            )


_PARTS = ("images", "accuracy", "precision", "f1")


def _estimate(runs: Sequence[Seed], values: Sequence[float]) -> Estimate | None:
    pairs = zip(runs, values, strict=True)
    return estimate_runs({run: value for run, value in pairs if not math.isnan(value)})


def class_names(records: Sequence[Record], classes: int) -> list[str]:
    """Class names by label, from the first record that states them; else `class 0`, `class 1`, ...

    The label is appended to a name that several classes share.
    """
    for names in (record.split.get("classnames") for record in records):
        if isinstance(names, list | tuple) and len(names) == classes:
            times = Counter(names)
            return [
                f"{name} #{label}" if times[name] > 1 else str(name)
                for label, name in enumerate(names)
            ]
    return [f"class {label}" for label in range(classes)]


def _grids(table: Table, scores: Sequence[ClassScore]) -> Iterator[Grid]:
    """A grid per data set: the classes with lowest and highest accuracy, methods side by side.

    Each method is shown at its largest number of shots; classes are sorted by the mean over
    methods.
    """
    for group in table.groups:
        own = [score for score in scores if score.group.label == group.label]
        if own:
            yield _grid(table, group, own)


def _grid(table: Table, group: Group, scores: Sequence[ClassScore]) -> Grid:
    most = {score.row.label: score.shots for score in scores}
    shown = [score for score in scores if score.shots == most[score.row.label]]
    # Lists of classes may differ between rows of mixed conditions, so that a label alone is none.
    by_class: defaultdict[tuple[int, str, int], dict[str, ClassScore]] = defaultdict(dict)
    labels: dict[tuple[str, int], int] = {}
    for score in shown:
        label = labels.setdefault((score.name, score.images), score.label)
        by_class[label, score.name, score.images][score.row.label] = score
    ordered = sorted(by_class, key=lambda key: (_mean(by_class[key]), key))
    total = len(ordered)
    if total > 2 * ENDS:
        ordered = ordered[:ENDS] + ordered[-ENDS:]
    usual = max(most.values())
    rows = [row for row in table.rows if row.label in most]
    heads = [
        row.title if most[row.label] == usual else f"{row.title} ({most[row.label]}-shot)"
        for row in rows
    ]
    n = most_common([score.accuracy.n for score in shown])
    part = f", the {ENDS} lowest and highest of {total} classes" if total > 2 * ENDS else ""
    return Grid(
        name=f"{group.name}, classes",
        caption=(
            f"accuracy of single classes in %, {usual}-shot, mean over {n} "
            f"{'seed' if n == 1 else 'seeds'}{part} by the mean over methods"
        ),
        columns=tuple(map(Column, heads)),
        lines=tuple(_line(by_class[key], rows, n) for key in ordered),
        footer=table.signature(group.seeds),
        first="class (images)",
    )


def _mean(scores: dict[str, ClassScore]) -> float:
    return math.fsum(score.accuracy.mean for score in scores.values()) / len(scores)


def _line(scores: dict[str, ClassScore], rows: Sequence[Row], usual: int) -> Line:
    """The line of a class; best and second method are ranked by their rounded numbers."""
    first = next(iter(scores.values()))
    texts = {label: f"{score.accuracy.mean:.1f}" for label, score in scores.items()}
    ranked = sorted({float(text) for text in texts.values()}, reverse=True)
    entries = []
    for row in rows:
        score = scores.get(row.label)
        if score is None:
            entries.append(Entry(MISSING))
            continue
        rank = ranked.index(float(texts[row.label])) + 1 if len(texts) > 1 else 0
        fewer = f"n={score.accuracy.n}" if score.accuracy.n != usual else ""
        entries.append(
            Entry(
                texts[row.label],
                suffix=f"({fewer})" if fewer else "",
                rank=rank if rank in (BEST, SECOND) else 0,
                short=fewer,
            )
        )
    return Line(f"{first.name} ({first.images:,})", tuple(entries))


def _values(score: ClassScore) -> tuple[Any, ...]:
    return (
        *(score.group.name, score.row.label, score.shots, score.label, score.name, score.images),
        *(score.accuracy.n, _six(score.accuracy.mean), _six(score.accuracy.half)),
        *map(_six, (score.accuracy.least, score.accuracy.most)),
        *(_six(value.mean if value else None) for value in (score.precision, score.f1)),
        marks_of(score.row.spec, score.row.stated),
    )


def _six(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
