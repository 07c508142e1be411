"""Per data set: the hardest classes, the most frequent confusions, and the curves of fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fewshot_bench.analysis.formats.document import Column, Grid
from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.fits import Fit, draw_all
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.page import Tile
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.rows import Field, Row, sheet
from fewshot_bench.plugins.report.thumbnails import Budget, thumbnails
from fewshot_bench.store.predictions import Outcome
from fewshot_bench.utils.text import counted, signed

if TYPE_CHECKING:
    import numpy as np

HARDEST, PAIRS = 20, 12


class Drill(NamedTuple):
    """Contents for one data set; `why` is the reason where there are none."""

    title: str
    summary: str
    grids: Sequence[Grid] = ()
    images: Sequence[Tile] = ()
    fits: Sequence[Fit] = ()
    why: str = ""


def drills(headline: Headline, predictions: Predictions, budget: Budget) -> list[Drill]:
    """One per member of the headline, for the best method and the one to compare it with.

    That is the baseline if it is ranked below the best method, else the second method.
    """
    if not headline.ranked:
        return []
    first, *others = headline.ranked
    named = [each for each in others if each.row.label == headline.table.baseline]
    compared = [first, *[*named, *others][:1]]
    return [
        _drill(headline, predictions, group, f"{number}", compared, budget)
        for number, group in enumerate(headline.members)
    ]


def _drill(
    headline: Headline,
    predictions: Predictions,
    group: Group,
    number: str,
    compared: Sequence[Contestant],
    budget: Budget,
) -> Drill:
    title, first = text.name(group.label), compared[0]
    fits = draw_all(headline, group, number)
    records, ours = _outcomes_of(headline, predictions, first, group)
    if not ours:
        return Drill(title, "", fits=fits, why="no logits that can be used")
    names = list(map(text.name, class_names(records[:1], ours[0].classes)))
    accuracy = _accuracies(ours)
    # Labels of the classes that have images, by ascending accuracy.
    order = [label for label in accuracy.argsort(kind="stable").tolist() if accuracy[label] >= 0]
    mixed = confusions(ours)
    counts = ours[0].per_class.images
    some = f"the {HARDEST} hardest of {len(order)} classes" if len(order) > HARDEST else "classes"
    heads = ["class", "images", f"{text.short(first.label, 20)}, %"]
    columns = [[Field(f"{count:.0f}") for count in counts], list(map(_share, accuracy))]
    for other in compared[1:]:
        theirs = _outcomes_of(headline, predictions, other, group)[1]
        if theirs and theirs[0].queries.digest == ours[0].queries.digest:
            values = _accuracies(theirs)
            gaps = map(float, accuracy - values)
            heads += [f"{text.short(other.label, 20)}, %", "difference"]
            columns.append(list(map(_share, values)))
            columns.append([Field(signed(gap, 1).replace("-", "−"), sort=gap) for gap in gaps])
    hardest = [
        Row(names[label], tuple(column[label] for column in columns)) for label in order[:HARDEST]
    ]
    confused = []
    for label, other_label, times in mixed:
        share = _share(100 * times / (counts[label] * len(ours)))
        fields = Field(names[other_label]), Field(f"{times:,}", sort=float(times)), share
        confused.append(Row(names[label], fields))
    often = Column("times", "side", "over all seeds")
    grids = [
        sheet(
            *(f"classes-{number}", f"{title}: {some} for {first.label}", heads, hardest),
            numeric=heads[1:],
        ),
        Grid(
            *(f"confused-{number}", f"{title}: what {first.label} mixes most often"),
            columns=(Column("taken for", "text"), often, Column("of the class, %", "side")),
            lines=tuple(confused),
            first="class",
        ),
    ]
    summary = (
        f"{counted(ours[0].classes, 'class', 'classes')}, "
        f"{counted(len(ours[0].labels), 'test image')}; "
        f"hardest: {text.short(names[order[0]], 40)} ({accuracy[order[0]]:.0f} %)"
    )
    images = thumbnails(records[0], predictions.store, ours, names, mixed, budget)
    return Drill(title, summary, grids, images, fits)


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
