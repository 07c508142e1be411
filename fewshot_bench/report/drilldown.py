"""Per data set: the classes that are hard, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewshot_bench.compare.model import Group
from fewshot_bench.report import text
from fewshot_bench.report.classnames import class_names
from fewshot_bench.report.grid import Column, Field, Grid, Line
from fewshot_bench.report.headline import Contestant, Headline
from fewshot_bench.report.readings import Reading, Readings
from fewshot_bench.report.thumbnails import Budget, Thumbnail, thumbnails

if TYPE_CHECKING:
    import numpy as np

HARDEST, PAIRS = 20, 12


@dataclass(frozen=True)
class Drill:
    """What is shown of one data set; `why` says why there is nothing."""

    title: str
    summary: str
    grids: Sequence[Grid] = ()
    note: str = ""
    images: Sequence[Thumbnail] = field(default_factory=tuple)
    why: str = ""


def drills(headline: Headline, readings: Readings, images: int) -> list[Drill]:
    """One per member of the headline, for the best method and the one it is held against."""
    ranked = headline.ranked
    if not ranked:
        return []
    first, second = ranked[0], _other(headline, ranked)
    budget = Budget(images)
    return [
        _drill(headline, readings, group, number, first, second, budget)
        for number, group in enumerate(headline.members)
    ]


def _other(headline: Headline, ranked: Sequence[Contestant]) -> Contestant | None:
    """The baseline, or the second where there is none."""
    named = [c for c in ranked[1:] if c.row.label == headline.table.baseline]
    return next(iter([*named, *ranked[1:2]]), None)


def _drill(
    headline: Headline,
    readings: Readings,
    group: Group,
    number: int,
    first: Contestant,
    second: Contestant | None,
    budget: Budget,
) -> Drill:
    title = text.name(group.label)
    ours = _of(headline, readings, first, group)
    if not ours:
        return Drill(title, "", why="no logits that can be used")
    theirs = _of(headline, readings, second, group) if second else []
    if theirs and theirs[0].queries != ours[0].queries:
        theirs = []
    record = next(
        r for seed in group.seeds if readings.of(r := headline.record_of(first, group, seed))
    )
    assert record is not None
    names, source = class_names(record, ours[0])
    heads = [first.label, second.label if second else ""]
    accuracy = per_class(ours)
    other = per_class(theirs) if theirs else None
    mixed = confusions(ours)
    grids = [
        _classes(number, title, names, heads, ours[0], accuracy, other),
        _confused(number, title, names, heads[0], ours, mixed),
    ]
    worst = min(
        (label for label in range(len(names)) if accuracy[label] >= 0),
        key=lambda label: float(accuracy[label]),
    )
    summary = (
        f"{text.counted(ours[0].classes, 'class', 'classes')}, "
        f"{text.counted(len(ours[0].labels), 'test image')}; "
        f"hardest: {text.short(names[worst], 40)} ({100 * accuracy[worst]:.0f} %)"
    )
    note = f"Class names are from {source}."
    shown = thumbnails(record, ours, names, mixed, budget) if budget.images else []
    return Drill(title, summary, grids, note, shown)


def _of(
    headline: Headline, readings: Readings, contestant: Contestant, group: Group
) -> list[Reading]:
    """The readings of a method's seeds that have the same queries as the first."""
    records = [headline.record_of(contestant, group, seed) for seed in group.seeds]
    found = [reading for reading in map(readings.of, records) if reading]
    return [reading for reading in found if reading.queries == found[0].queries]


def per_class(readings: Sequence[Reading]) -> np.ndarray:
    """(classes,) share of right answers over all seeds, -1 for a class without images."""
    import numpy as np

    labels, classes = readings[0].labels, readings[0].classes
    counts = np.bincount(labels, minlength=classes) * len(readings)
    hits = sum(
        np.bincount(labels, weights=reading.correct, minlength=classes) for reading in readings
    )
    shares: np.ndarray = np.where(counts > 0, hits / np.maximum(counts, 1), -1.0)
    return shares


def confusions(readings: Sequence[Reading]) -> list[tuple[int, int, int]]:
    """(label, prediction, times over all seeds) of wrong answers, the most frequent first."""
    import numpy as np

    classes = readings[0].classes
    wrong = [r.labels * classes + r.predictions for r in readings]
    kept = np.concatenate(
        [codes[r.labels != r.predictions] for codes, r in zip(wrong, readings, strict=True)]
    )
    codes, counts = np.unique(kept, return_counts=True)
    order = np.lexsort((codes, -counts))[:PAIRS]
    return [(int(codes[i] // classes), int(codes[i] % classes), int(counts[i])) for i in order]


def _classes(
    number: int,
    title: str,
    names: Sequence[str],
    heads: Sequence[str],
    reading: Reading,
    accuracy: np.ndarray,
    other: np.ndarray | None,
) -> Grid:
    import numpy as np

    counts = np.bincount(reading.labels, minlength=reading.classes)
    order = [int(label) for label in np.argsort(accuracy, kind="stable") if accuracy[label] >= 0]
    columns = [Column("class", False), Column("images"), Column(f"{text.short(heads[0], 20)}, %")]
    if other is not None:
        columns += [Column(f"{text.short(heads[1], 20)}, %"), Column("difference")]
    lines = []
    for label in order[:HARDEST]:
        fields = [Field(names[label]), Field(str(counts[label])), _share(accuracy[label])]
        if other is not None:
            gap = 100 * float(accuracy[label] - other[label])
            fields += [_share(other[label]), Field(f"{gap:+.1f}".replace("-", "−"), gap)]
        lines.append(Line(fields))
    some = f"the {HARDEST} hardest of {len(order)} classes" if len(order) > HARDEST else "classes"
    return Grid(f"classes-{number}", f"{title}: {some} for {heads[0]}", columns, lines)


def _confused(
    number: int,
    title: str,
    names: Sequence[str],
    head: str,
    readings: Sequence[Reading],
    mixed: Sequence[tuple[int, int, int]],
) -> Grid:
    import numpy as np

    counts = np.bincount(readings[0].labels, minlength=readings[0].classes) * len(readings)
    columns = [
        Column("class", False),
        Column("taken for", False),
        Column("times", hint="over all seeds"),
        Column("of the class, %"),
    ]
    lines = [
        Line(
            [
                Field(names[label]),
                Field(names[taken]),
                Field(f"{times:,}", float(times)),
                _share(times / counts[label]),
            ]
        )
        for label, taken, times in mixed
    ]
    return Grid(f"confused-{number}", f"{title}: what {head} mixes most often", columns, lines)


def _share(value: float) -> Field:
    return Field(f"{100 * float(value):.1f}")
