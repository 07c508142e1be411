"""Per data set: the hardest classes, and the most frequent confusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fewshot_bench.analysis.formats.document import Column, Grid
from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.rows import Field, Row, sheet
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
    if not headline.ranked:
        return []
    first, *others = headline.ranked
    # The baseline if it is ranked below the best method, else the second method.
    named = [each for each in others if each.row.label == headline.table.baseline]
    second = next(iter([*named, *others]), None)
    return [
        _drill(headline, predictions, group, number, first, second, budget)
        for number, group in enumerate(headline.members)
    ]


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
    records, ours = _outcomes_of(headline, predictions, first, group)
    if not ours:
        return Drill(title, "", why="no logits that can be used")
    theirs = _outcomes_of(headline, predictions, second, group)[1] if second else []
    if theirs and theirs[0].queries.digest != ours[0].queries.digest:
        theirs = []
    names = list(map(text.name, class_names(records[:1], ours[0].classes)))
    accuracy = _accuracies(ours)
    # Labels of the classes that have images, by ascending accuracy.
    order = [label for label in accuracy.argsort(kind="stable").tolist() if accuracy[label] >= 0]
    mixed = confusions(ours)
    counts = ours[0].per_class.images
    some = f"the {HARDEST} hardest of {len(order)} classes" if len(order) > HARDEST else "classes"
    heads = ["class", "images", f"{text.short(first.label, 20)}, %"]
    columns = [[Field(f"{count:.0f}") for count in counts], list(map(_share, accuracy))]
    if theirs and second:
        others = _accuracies(theirs)
        heads += [f"{text.short(second.label, 20)}, %", "difference"]
        columns += [list(map(_share, others)), list(map(_gap, accuracy - others))]
    hardest = [
        Row(names[label], tuple(column[label] for column in columns)) for label in order[:HARDEST]
    ]
    confused = [
        Row(names[label], (Field(names[taken]), Field(f"{times:,}", sort=float(times)), share))
        for label, taken, times in mixed
        for share in [_share(100 * times / (counts[label] * len(ours)))]
    ]
    times = Column("times", "side", "over all seeds")
    grids = [
        sheet(
            *(f"classes-{number}", f"{title}: {some} for {first.label}", heads, hardest),
            numeric=heads[1:],
        ),
        Grid(
            *(f"confused-{number}", f"{title}: what {first.label} mixes most often"),
            columns=(Column("taken for", "text"), times, Column("of the class, %", "side")),
            lines=tuple(confused),
            first="class",
        ),
    ]
    summary = (
        f"{counted(ours[0].classes, 'class', 'classes')}, "
        f"{counted(len(ours[0].labels), 'test image')}; "
        f"hardest: {text.short(names[order[0]], 40)} ({accuracy[order[0]]:.0f} %)"
    )
    images: list[Thumbnail] = []
    if budget.images:
        images = thumbnails(records[0], predictions.store, ours, names, mixed, budget)
    return Drill(title, summary, grids, images)


def _outcomes_of(
    headline: Headline, predictions: Predictions, contestant: Contestant, group: Group
) -> tuple[list[Record], list[Outcome]]:
    """Records and outcomes of the seeds of a method that have the same queries as the first.

    Both are empty if there is no outcome.
    """
    records: list[Record] = []
    outcomes: list[Outcome] = []
    for record in headline.records_of(contestant, group).values():
        outcome = predictions.of(record)
        if outcome and (not outcomes or outcome.queries.digest == outcomes[0].queries.digest):
            records.append(record)
            outcomes.append(outcome)
    return records, outcomes


def _accuracies(outcomes: Sequence[Outcome]) -> np.ndarray:
    """(classes,) accuracy over all seeds in percent, NaN for a class without images."""
    import numpy as np

    mean: np.ndarray = np.mean([outcome.per_class.accuracy for outcome in outcomes], axis=0)
    return mean


def confusions(outcomes: Sequence[Outcome]) -> list[tuple[int, int, int]]:
    """(label, prediction, times over all seeds) of wrong answers, the most frequent first."""
    import numpy as np

    classes = outcomes[0].classes
    wrong = np.concatenate([(o.labels * classes + o.predictions)[~o.hits] for o in outcomes])
    codes, counts = np.unique(wrong, return_counts=True)
    order = np.lexsort((codes, -counts))[:PAIRS]
    return [(int(codes[i] // classes), int(codes[i] % classes), int(counts[i])) for i in order]


def _share(value: float) -> Field:
    return Field(f"{value:.1f}")


def _gap(value: float) -> Field:
    return Field(signed(value, 1).replace("-", "−"), sort=float(value))
