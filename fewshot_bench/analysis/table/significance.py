"""Differences of rows to the baseline, tested on identical splits, and variance components.

`significance` and `variations` are the entries. Each number of shots is a family of tests:
p-values over all data sets are adjusted over the rows (Holm 1979), those of single data sets over
rows and data sets.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.conditions import digest
from fewshot_bench.analysis.table.axes import Group, Row, Seed
from fewshot_bench.analysis.table.contrasts import (
    LEVEL,
    Contrast,
    Detectable,
    Lacking,
    Ranking,
    Significance,
    Standing,
    Variation,
)
from fewshot_bench.analysis.table.model import Table
from fewshot_bench.api.metrics import RECORDED, Metric
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.effects import Spread
    from fewshot_bench.store.predictions import Outcome

# Over fewer data sets Wilcoxon's test cannot reach 5 %.
SIGNED_RANK_FROM = 6
# Ranks over fewer data sets are meaningless.
RANKED_FROM = 3


@dataclass(frozen=True, slots=True)
class _Paired:
    """A row paired with the baseline at one number of shots: spreads by data set."""

    row: Row
    spreads: dict[str, Spread]
    left_out: tuple[str, ...]
    lacking: tuple[Lacking, ...]


def significance(table: Table, places: Places, baseline: str, answers: Answers) -> Significance:
    """Compare every row with row `baseline`; only rankings for metrics without scores per image."""
    if table.main.scores is None:
        return Significance(rankings=tuple(_rankings(table)))
    of_baseline = (records for place, records in places.items() if place[0] == baseline)
    answers = remembered(answers, itertools.chain.from_iterable(of_baseline))
    contrasts: list[Contrast] = []
    standings: list[Standing] = []
    found_detectable: list[Detectable] = []
    lacking: list[Lacking] = []
    for shots in table.shots:
        found = [
            _paired(table, places, row, baseline, shots, answers)
            for row in table.rows
            if row.label != baseline
        ]
        lacking += [one for pair in found for one in pair.lacking]
        found = [pair for pair in found if pair.spreads]
        single = _single(found, shots)
        contrasts += single
        standings += _standings(table.main, found, single, shots)
        found_detectable += _detectable(found, shots)
    return Significance(
        tuple(contrasts),
        tuple(standings),
        tuple(_rankings(table)),
        tuple(found_detectable),
        tuple(lacking),
    )


def remembered(answers: Answers, records: Iterable[Record]) -> Answers:
    """Cache the answers of these records, those of a row that every other row is compared with."""
    mine = {record.spec.key() for record in records}
    known: dict[str, Outcome | None] = {}

    def answer(record: Record) -> Outcome | None:
        key = record.spec.key()
        if key not in mine:
            return answers(record)
        if key not in known:
            known[key] = answers(record)
        return known[key]

    return answer


def plain_groups(table: Table, shots: int) -> list[Group]:
    """Groups evaluated on all classes of their own data set, at this number of shots."""
    return [g for g in table.groups if g.scope == "all" and not g.average and shots in g.shots]


def _paired(
    table: Table, places: Places, row: Row, baseline: str, shots: int, answers: Answers
) -> _Paired:
    spreads, left_out, lacking = {}, [], []
    for group in plain_groups(table, shots):
        ours, theirs = (
            by_seed(places.get((label, group.label, shots), ())) for label in (row.label, baseline)
        )
        answered = _answered(ours, theirs, answers, table.main)
        found = _spread(answered, table.main, group.label)
        if isinstance(found, str):
            left_out.append(group.label)
        else:
            spreads[group.label] = found
            # Runs, of which several may share a support set: those are the draws of the spread.
            delta, tested = table.cell(group, row, shots).delta, len(answered)
            if delta and tested < delta.n:
                lacking.append(Lacking(row.label, shots, group.label, tested, delta.n))
    return _Paired(row, spreads, tuple(left_out), tuple(lacking))


def _single(found: Sequence[_Paired], shots: int) -> list[Contrast]:
    """Contrasts of every row on each single data set, adjusted as one family."""
    from fewshot_bench.analysis.statistics.intervals import holm
    from fewshot_bench.analysis.statistics.paired import compare_spreads

    places = [(pair.row.label, label) for pair in found for label in pair.spreads]
    results = [compare_spreads({k: one}) for pair in found for k, one in pair.spreads.items()]
    adjusted = holm([result.p for result in results])
    return [
        Contrast(row, shots, label, result, p)
        for (row, label), result, p in zip(places, results, adjusted, strict=True)
    ]


def _standings(
    metric: Metric, found: Sequence[_Paired], single: Sequence[Contrast], shots: int
) -> Iterator[Standing]:
    from fewshot_bench.analysis.statistics.intervals import holm
    from fewshot_bench.analysis.statistics.paired import compare_spreads
    from fewshot_bench.analysis.statistics.ranks import signed_rank, wins

    results = [compare_spreads(pair.spreads) for pair in found]
    adjusted = holm([result.p for result in results])
    by_row: defaultdict[str, list[Contrast]] = defaultdict(list)
    for contrast in single:
        by_row[contrast.row].append(contrast)
    for pair, result, p in zip(found, results, adjusted, strict=True):
        own = by_row[pair.row.label]
        counts = wins([replace(c.result, p=c.adjusted) for c in own], LEVEL)
        win, loss = counts.win, counts.loss
        gaps = [c.result.difference for c in own]
        yield Standing(
            overall=Contrast(pair.row.label, shots, "", result, p),
            wins=win if metric.higher_is_better else loss,
            ties=counts.tie,
            losses=loss if metric.higher_is_better else win,
            signed_rank=signed_rank(gaps) if len(gaps) >= SIGNED_RANK_FROM else None,
            left_out=pair.left_out,
        )


def _detectable(found: Sequence[_Paired], shots: int) -> Iterator[Detectable]:
    from fewshot_bench.analysis.statistics.paired import TINY
    from fewshot_bench.analysis.statistics.power import detectable, planned_error

    by_set: defaultdict[str, list[Spread]] = defaultdict(list)
    for pair in found:
        for label, spread in pair.spreads.items():
            by_set[label].append(spread)
    for label, spreads in by_set.items():
        errors = [(planned_error({label: spread})[0], spread) for spread in spreads]
        varying = sorted(((e, s) for e, s in errors if e > TINY), key=lambda pair: pair[0])
        if varying:
            _, middle = varying[len(varying) // 2]
            yield Detectable(label, shots, detectable({label: middle}), middle.seeds)


def rank_score(mean: float) -> float:
    """A mean of values of records as a score to rank, equal for equal methods.

    Records round values to `RECORDED` digits: the means of 41, 41 and 44 hits of 60 and of 42, 42
    and 42 differ in the seventh.
    """
    return round(mean, RECORDED - 1)


def _rankings(table: Table) -> Iterator[Ranking]:
    from fewshot_bench.analysis.statistics.ranks import (
        average_ranks,
        cliques,
        critical_difference,
        friedman,
    )

    sign = 1.0 if table.main.higher_is_better else -1.0
    for shots in table.shots:
        groups = plain_groups(table, shots)
        whole = {}
        for row in table.rows:
            cells = [table.cell(group, row, shots) for group in groups]
            means = [c.estimates[table.metric].mean for c in cells if table.metric in c.estimates]
            if len(means) == len(groups):
                whole[row.label] = [sign * rank_score(mean) for mean in means]
        if len(groups) < RANKED_FROM or len(whole) < 2:
            continue
        scores = list(zip(*whole.values(), strict=True))
        ranks = average_ranks(scores)
        order = sorted(range(len(whole)), key=lambda place: float(ranks[place]))
        names = [list(whole)[place] for place in order]
        values = [float(ranks[place]) for place in order]
        critical = critical_difference(len(whole), len(groups))
        alike = cliques(values, critical)
        p = friedman(scores)[1]
        same = tuple(tuple(names[place] for place in clique) for clique in alike)
        yield Ranking(shots, len(groups), tuple(names), tuple(values), p, critical, same)


# Reads the predictions of a record per image; None if its logits are not available.
Answers = Callable[[Record], "Outcome | None"]
Rows = Mapping[str, tuple[Row, list[Record]]]
# Records by (row label, evaluated data set, shots).
Places = Mapping[tuple[str, str, int], list[Record]]


def paired_spread(
    ours: Mapping[Seed, Record],
    theirs: Mapping[Seed, Record],
    answers: Answers,
    metric: Metric,
    dataset: str,
) -> Spread | str:
    """The spread of ours minus theirs on one data set over common seeds, or why there is none.

    Seeds are paired if their split digests are equal; a method without shots has no support set
    and is paired by its test images alone.
    """
    return _spread(_answered(ours, theirs, answers, metric), metric, dataset)


def _answered(
    ours: Mapping[Seed, Record], theirs: Mapping[Seed, Record], answers: Answers, metric: Metric
) -> dict[Seed, tuple[Outcome, Outcome]]:
    """The predictions of both by common seed, without seeds of which they cannot be read."""
    found = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        if not _same_split(ours[seed], theirs[seed]):
            continue
        first, second = answers(ours[seed]), answers(theirs[seed])
        if first is None or second is None:
            continue
        if first.has_scores(metric) and second.has_scores(metric):
            found[seed] = first, second
    return found


def _spread(
    answered: Mapping[Seed, tuple[Outcome, Outcome]], metric: Metric, dataset: str
) -> Spread | str:
    from fewshot_bench.analysis.statistics.effects import spread

    if not answered:
        return "no common seed with identical splits and logits"
    outcomes = [outcome for pair in answered.values() for outcome in pair]
    if len({outcome.queries.digest for outcome in outcomes}) > 1:
        return "the test images differ between seeds or methods"
    if len(outcomes[0].labels) < 2:
        return "one test image says nothing about others"
    mine, other = (
        [scores(one, metric) for one in side] for side in zip(*answered.values(), strict=True)
    )
    return spread(mine, other, dataset, [(seed.split, seed.train) for seed in answered])


def scores(outcome: Outcome, metric: Metric) -> Any:
    """(images,) scores whose mean is the metric / 100, the unit that `statistics` expects."""
    return outcome.scores(metric) * (metric.scale / 100)


def by_seed(records: Sequence[Record]) -> dict[Seed, Record]:
    """Finished records by their seeds."""
    return {Seed.of(record): record for record in records if record.status == "done"}


def _same_split(one: Record, two: Record) -> bool:
    return 0 in (one.spec.shots, two.spec.shots) or digest(one) == digest(two) != ""


_OTHER_IMAGES = "the test images differ between seeds"


def variations(table: Table, places: Places, answers: Answers) -> Iterator[Variation]:
    """Variance components of every cell with several support sets and several training seeds."""
    from fewshot_bench.analysis.statistics.variance import components, sampling_variance

    if table.main.scores is None:
        return
    for shots in table.shots:
        for group in plain_groups(table, shots):
            for row in table.rows:
                records = by_seed(places.get((row.label, group.label, shots), ()))
                if min(len({s.split for s in records}), len({s.train for s in records})) < 2:
                    continue
                if all(seed.split == seed.train for seed in records):
                    # Each support set has the training seed of the same number: nothing is crossed.
                    continue
                found = {seed: answers(record) for seed, record in records.items()}
                known = {
                    seed: one
                    for seed, one in found.items()
                    if one is not None and one.has_scores(table.main)
                }
                images = {seed: scores(outcome, table.main) for seed, outcome in known.items()}
                values = {
                    (seed.split, seed.train): 100 * float(one.mean())
                    for seed, one in images.items()
                }
                if not known:
                    continue
                if len({one.queries.digest for one in known.values()}) > 1:
                    yield Variation(row.label, group.label, shots, None, _OTHER_IMAGES)
                    continue
                try:
                    sampling = sampling_variance(list(images.values()))
                    yield Variation(row.label, group.label, shots, components(values, sampling))
                except UsageError as error:
                    yield Variation(row.label, group.label, shots, None, str(error))
