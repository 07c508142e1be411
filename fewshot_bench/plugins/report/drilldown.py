"""Per data set: the hardest classes, confusions with example images, and the curves of fits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewshot_bench.analysis.formats.document import Column, Grid
from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Group
from fewshot_bench.api.dataset import data_of_target
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.report import text
from fewshot_bench.plugins.report.figures.fits import Fit, draw_all
from fewshot_bench.plugins.report.headline import Contestant, Headline
from fewshot_bench.plugins.report.page import Tile, draw_small
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.plugins.report.rows import Field, Row, sheet
from fewshot_bench.runner.preflight import revision_of
from fewshot_bench.store.predictions import Outcome
from fewshot_bench.utils.text import counted, signed

HARDEST, PAIRS = 20, 12


@dataclass
class Budget:
    """Limits of thumbnails: images per data set, and bytes of base64 left for all of a page."""

    images: int
    left: int = 2_000_000


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
    images = _draw_examples(records[0], predictions.store, ours, names, mixed, budget)
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
    return np.asarray(np.mean([outcome.per_class.accuracy for outcome in outcomes], axis=0))


def confusions(outcomes: Sequence[Outcome]) -> list[tuple[int, int, int]]:
    """(label, prediction, times over all seeds) of wrong answers, the most frequent first."""
    classes = outcomes[0].classes
    wrong = np.concatenate([(o.labels * classes + o.predictions)[~o.hits] for o in outcomes])
    codes, counts = np.unique(wrong, return_counts=True)
    order = np.lexsort((codes, -counts))[:PAIRS]
    return [(int(codes[i] // classes), int(codes[i] % classes), int(counts[i])) for i in order]


def _draw_examples(
    record: Record,
    store: Path,
    outcomes: Sequence[Outcome],
    names: Sequence[str],
    mixed: Sequence[tuple[int, int, int]],
    budget: Budget,
) -> list[Tile]:
    """Images of the pairs in `mixed`, in turn, those first that most seeds got wrong.

    Empty if the data set cannot be opened or lists other images; an image that cannot be read is
    left out. store: the folder of the store, which may have the data set's split.
    """
    dataset, items = _open(record, store) if budget.images else (None, {})
    wrong = [(label, other, _list_wrong(outcomes, label, other)) for label, other, _ in mixed]
    shown: list[Tile] = []
    for rank in range(max((len(images) for *_, images in wrong), default=0)):
        for label, other, images in wrong:
            if len(shown) >= budget.images or rank >= len(images):
                continue
            index, times = images[rank]
            uri = draw_small(dataset, items.get(outcomes[0].ids[index]))
            if uri and len(uri) <= budget.left:
                budget.left -= len(uri)
                about = (f"taken for {names[other]}", f"{times} of {len(outcomes)} seeds")
                shown.append(Tile(uri, (names[label], *about)))
    return shown


def _open(record: Record, store: Path) -> tuple[Any, dict[str, Any]]:
    """The data set that a record was evaluated on, and its test images by id.

    None and no image if it cannot be opened here as of then. If a plug-in or the disk fails, the
    report is written without examples.
    """
    spec = record.spec
    name, revision, data = spec.dataset, spec.revision, spec.data
    if spec.target:
        name, revision, data = spec.target, spec.target_revision, data_of_target(spec.data)
    with suppress(Exception):
        dataset = registry().dataset(name, data, store)
        # Ids of other lists may name other images.
        if revision in ("", revision_of(name, dataset)):
            return dataset, {item.id: item for item in dataset.items().get("test", ())}
    return None, {}


def _list_wrong(outcomes: Sequence[Outcome], label: int, other: int) -> list[tuple[int, int]]:
    """(index, times) of the images of `label` with the prediction `other`, most times first."""
    wrong = [(outcome.labels == label) & (outcome.predictions == other) for outcome in outcomes]
    times = np.sum(wrong, axis=0)
    order = np.argsort(-times, kind="stable")
    return [(int(index), int(times[index])) for index in order if times[index]]


def _share(value: float) -> Field:
    return Field(f"{value:.1f}")
