"""Per data set: the hardest classes, and the most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.grid import Column, Field, Grid, Line
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.thumbnails import Budget, Thumbnail, thumbnails
from fewshot_bench.store.predictions import Outcome
from fewshot_bench.utils.text import counted, signed

if TYPE_CHECKING:
    import numpy as np

HARDEST, PAIRS = 20, 12


@dataclass(frozen=True)
class Drill:
    """Contents for one data set; `why` is the reason where there are none."""

    title: str
    summary: str
    grids: Sequence[Grid] = ()
    images: Sequence[Thumbnail] = field(default_factory=tuple)
    why: str = ""


def drills(headline: Headline, predictions: Predictions, budget: Budget) -> list[Drill]:
    """One per member of the headline, for the best method and the one to compare it with."""
    ranked = headline.ranked
    if not ranked:
        return []
    first, second = ranked[0], _other(headline, ranked)
    return [
        _drill(headline, predictions, group, number, first, second, budget)
        for number, group in enumerate(headline.members)
    ]


def _other(headline: Headline, ranked: Sequence[Contestant]) -> Contestant | None:
    """The baseline if it is ranked below the best method, else the second method."""
    named = [c for c in ranked[1:] if c.row.label == headline.table.baseline]
    return next(iter([*named, *ranked[1:2]]), None)


def _drill(
    headline: Headline,
    predictions: Predictions,
    group: Group,
    number: int,
    first: Contestant,
    second: Contestant | None,
    budget: Budget,
) -> Drill:
    title = text.name(group.label)
    records, ours = _of(headline, predictions, first, group)
    if not ours:
        return Drill(title, "", why="no logits that can be used")
    theirs = _of(headline, predictions, second, group)[1] if second else []
    if theirs and theirs[0].queries.digest != ours[0].queries.digest:
        theirs = []
    names = list(map(text.name, class_names(records[:1], ours[0].classes)))
    heads = [first.label, second.label if second else ""]
    accuracy = _accuracies(ours)
    other = _accuracies(theirs) if theirs else None
    mixed = confusions(ours)
    grids = [
        _classes(number, title, names, heads, ours[0], accuracy, other),
        _confused(number, title, names, heads[0], ours, mixed),
    ]
    worst = _hardest_first(accuracy)[0]
    summary = (
        f"{counted(ours[0].classes, 'class', 'classes')}, "
        f"{counted(len(ours[0].labels), 'test image')}; "
        f"hardest: {text.short(names[worst], 40)} ({accuracy[worst]:.0f} %)"
    )
    shown: list[Thumbnail] = []
    if budget.images:
        shown = thumbnails(records[0], predictions.store, ours, names, mixed, budget)
    return Drill(title, summary, grids, shown)


def _of(
    headline: Headline, predictions: Predictions, contestant: Contestant, group: Group
) -> tuple[list[Record], list[Outcome]]:
    """Records and outcomes of the seeds of a method that have the same queries as the first.

    Both are empty if there is no outcome.
    """
    records: list[Record] = []
    found: list[Outcome] = []
    for record in headline.records_of(contestant, group).values():
        outcome = predictions.of(record)
        if outcome and (not found or outcome.queries.digest == found[0].queries.digest):
            records.append(record)
            found.append(outcome)
    return records, found


def _accuracies(outcomes: Sequence[Outcome]) -> np.ndarray:
    """(classes,) accuracy over all seeds in percent, NaN for a class without images."""
    import numpy as np

    found: np.ndarray = np.mean([outcome.per_class.accuracy for outcome in outcomes], axis=0)
    return found


def _hardest_first(accuracy: np.ndarray) -> list[int]:
    """Labels of the classes that have images, by ascending accuracy."""
    import numpy as np

    order = np.argsort(accuracy, kind="stable")
    return [int(label) for label in order if not np.isnan(accuracy[label])]


def confusions(outcomes: Sequence[Outcome]) -> list[tuple[int, int, int]]:
    """(label, prediction, times over all seeds) of wrong answers, the most frequent first."""
    import numpy as np

    classes = outcomes[0].classes
    kept = np.concatenate([(o.labels * classes + o.predictions)[~o.hits] for o in outcomes])
    codes, counts = np.unique(kept, return_counts=True)
    order = np.lexsort((codes, -counts))[:PAIRS]
    return [(int(codes[i] // classes), int(codes[i] % classes), int(counts[i])) for i in order]


def _classes(
    number: int,
    title: str,
    names: Sequence[str],
    heads: Sequence[str],
    outcome: Outcome,
    accuracy: np.ndarray,
    other: np.ndarray | None,
) -> Grid:
    counts = outcome.per_class.images
    order = _hardest_first(accuracy)
    columns = [Column("class", False), Column("images"), Column(f"{text.short(heads[0], 20)}, %")]
    if other is not None:
        columns += [Column(f"{text.short(heads[1], 20)}, %"), Column("difference")]
    lines = []
    for label in order[:HARDEST]:
        fields = [Field(names[label]), Field(f"{counts[label]:.0f}"), _share(accuracy[label])]
        if other is not None:
            gap = float(accuracy[label] - other[label])
            fields += [_share(other[label]), Field(signed(gap, 1).replace("-", "−"), gap)]
        lines.append(Line(fields))
    some = f"the {HARDEST} hardest of {len(order)} classes" if len(order) > HARDEST else "classes"
    return Grid(f"classes-{number}", f"{title}: {some} for {heads[0]}", columns, lines)


def _confused(
    number: int,
    title: str,
    names: Sequence[str],
    head: str,
    outcomes: Sequence[Outcome],
    mixed: Sequence[tuple[int, int, int]],
) -> Grid:
    counts = outcomes[0].per_class.images * len(outcomes)
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
                _share(100 * times / counts[label]),
            ]
        )
        for label, taken, times in mixed
    ]
    return Grid(f"confused-{number}", f"{title}: what {head} mixes most often", columns, lines)


def _share(value: float) -> Field:
    return Field(f"{value:.1f}")
