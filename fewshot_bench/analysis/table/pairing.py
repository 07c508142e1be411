"""Scores per test image of two methods on identical splits, as paired tests want them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.conditions import digest
from fewshot_bench.analysis.table.cells import seed_of
from fewshot_bench.analysis.table.model import Row, Seed
from fewshot_bench.api.metrics import Metric
from fewshot_bench.api.record import Record

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.effects import Spread
    from fewshot_bench.store.predictions import Outcome

# What a record predicted, image by image; None where its logits are not there.
Answers = Callable[[Record], "Outcome | None"]
Rows = Mapping[str, tuple[Row, list[Record]]]
# By the row's label, what was evaluated, and the shots.
Places = Mapping[tuple[str, str, int], list[Record]]


def paired_spread(
    ours: Mapping[Seed, Record],
    theirs: Mapping[Seed, Record],
    answers: Answers,
    metric: Metric,
    dataset: str,
) -> Spread | str:
    """Ours minus theirs on one data set, over their common seeds, or why they cannot be paired.

    Splits are identical where their digests are; a
    method without shots has no support set, and is paired by its test images alone.
    """
    from fewshot_bench.analysis.statistics.effects import spread

    mine, other, runs, queries = [], [], [], set()
    for seed in sorted(ours.keys() & theirs.keys()):
        one, two = ours[seed], theirs[seed]
        if not _same_split(one, two):
            continue
        first, second = answers(one), answers(two)
        if first is None or second is None:
            continue
        queries |= {first.queries.digest, second.queries.digest}
        runs.append((seed.split, seed.train))
        mine.append(scores(first, metric))
        other.append(scores(second, metric))
    if not mine:
        return "no common seed with identical splits and logits"
    if len(queries) > 1:
        return "the test images differ between seeds or methods"
    if len(mine[0]) < 2:
        return "one test image says nothing about others"
    return spread(mine, other, dataset, runs)


def scores(outcome: Outcome, metric: Metric) -> Any:
    """(images,) whose mean is a hundredth of the metric, as `statistics` takes all scores."""
    return outcome.scores(metric) * (metric.scale / 100)


def by_place(rows: Rows) -> Places:
    """The records of every row, by what they were evaluated on and their shots."""
    places: defaultdict[tuple[str, str, int], list[Record]] = defaultdict(list)
    for label, (_, records) in rows.items():
        for record in records:
            places[label, record.spec.evaluated, record.spec.shots].append(record)
    return dict(places)


def by_seed(records: Sequence[Record]) -> dict[Seed, Record]:
    """Finished records by their seeds."""
    return {seed_of(record): record for record in records if record.status == "done"}


def _same_split(one: Record, two: Record) -> bool:
    return 0 in (one.spec.shots, two.spec.shots) or digest(one) == digest(two) != ""
