"""Differences of rows to the baseline, tested on identical splits, and variance components.

`significance` and `variations` are the entries. Each number of shots is a family of tests:
p-values over all data sets are adjusted over the rows (Holm 1979), those of single data sets over
rows and data sets. Harmonic means of base and new are tested in the same way.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fewshot_bench.analysis.table.table import (
    LEVEL,
    Contrast,
    Detectable,
    Lacking,
    Ranking,
    Row,
    Seed,
    Significance,
    Standing,
    Table,
    Variation,
)
from fewshot_bench.api.metrics import RECORDED, Metric
from fewshot_bench.api.record import Record, split_digest
from fewshot_bench.api.spec import ALONE
from fewshot_bench.splits.groups import is_stream
from fewshot_bench.utils.errors import UsageError

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.effects import Spread
    from fewshot_bench.analysis.statistics.paired import Comparison
    from fewshot_bench.store.predictions import Outcome

# Reads the predictions of a record per image; None if its logits are not available.
Answers = Callable[[Record], "Outcome | None"]
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


def significance(table: Table, baseline: str, answers: Answers) -> Significance:
    """Compare every row with row `baseline`; only rankings for metrics without scores per image."""
    if table.main.scores is None:
        return Significance(rankings=tuple(_rankings(table)))
    cells = (cell for (_, label, _), cell in table.cells.items() if label == baseline)
    answers = remember(answers, (record for cell in cells for record in cell.records.values()))
    contrasts: list[Contrast] = []
    standings: list[Standing] = []
    smallest: list[Detectable] = []
    lacking: list[Lacking] = []
    for shots in table.shots:
        pairs = [
            _pair(table, row, baseline, shots, answers)
            for row in table.rows
            if row.label != baseline
        ]
        lacking += [lack for pair in pairs for lack in pair.lacking]
        pairs = [pair for pair in pairs if pair.spreads]
        single = _single(pairs, shots)
        contrasts += single
        standings += _standings(table.main, pairs, single, shots)
        smallest += _detectable(pairs, shots)
        contrasts += _harmonic(table, baseline, shots, answers)
    return Significance(
        tuple(contrasts),
        tuple(standings),
        tuple(_rankings(table)),
        tuple(smallest),
        tuple(lacking),
    )


def remember(answers: Answers, records: Iterable[Record]) -> Answers:
    """Cache the answers of these records, those of a row that every other row is compared with."""
    own = {(record.source, record.spec.key()) for record in records}
    cache: dict[tuple[str, str], Outcome | None] = {}

    def answer(record: Record) -> Outcome | None:
        key = record.source, record.spec.key()
        if key not in own:
            return answers(record)
        if key not in cache:
            cache[key] = answers(record)
        return cache[key]

    return answer


def _pair(table: Table, row: Row, baseline: str, shots: int, answers: Answers) -> _Paired:
    spreads, left_out, lacking = {}, [], []
    for group in table.plain_groups(shots):
        cell, other = (table.cells[group.label, label, shots] for label in (row.label, baseline))
        answered = _answer(cell.records, other.records, answers, table.main)
        spread = _spread(answered, table.main, group.label)
        if isinstance(spread, str):
            left_out.append(group.label)
            continue
        spreads[group.label] = spread
        # Runs, of which several may share a support set: those are the draws of the spread.
        if cell.delta and len(answered) < cell.delta.n:
            lacking.append(Lacking(row.label, shots, group.label, len(answered), cell.delta.n))
    return _Paired(row, spreads, tuple(left_out), tuple(lacking))


def _single(pairs: Sequence[_Paired], shots: int) -> list[Contrast]:
    """Contrasts of every row on each single data set, adjusted as one family."""
    from fewshot_bench.analysis.statistics.paired import compare_spreads

    spreads = [(pair.row.label, *item) for pair in pairs for item in pair.spreads.items()]
    results = [compare_spreads({label: spread}) for _, label, spread in spreads]
    adjusted = _adjust(results)
    return [
        Contrast(row, shots, label, result, p)
        for (row, label, _), result, p in zip(spreads, results, adjusted, strict=True)
    ]


def _harmonic(table: Table, baseline: str, shots: int, answers: Answers) -> Iterator[Contrast]:
    """Contrasts of harmonic means: one family of those of data sets, one of their averages."""
    from fewshot_bench.analysis.statistics.paired import compare_spreads

    every = [group for group in table.groups if group.scope == "H" and shots in group.shots]
    for average in (False, True):
        family = [group for group in every if group.average == average]
        found = []
        for group, row in itertools.product(family, table.rows):
            if table.cell(group, row, shots).delta is not None:
                members = [g.dataset for g in every if not g.average and (average or g == group)]
                spreads = _halves(table, members, (row.label, baseline), shots, answers)
                found += [(row, group, compare_spreads(spreads))] if spreads else []
        adjusted = _adjust([result for *_, result in found])
        for (row, group, result), p in zip(found, adjusted, strict=True):
            yield Contrast(row.label, shots, group.label, result, p)


def _halves(
    table: Table, datasets: Sequence[str], pair: tuple[str, str], shots: int, answers: Answers
) -> dict[str, Spread]:
    """The spreads of two rows in H; empty without seeds that all base and new classes have."""
    import numpy as np

    from fewshot_bench.analysis.statistics.harmonic import spread_harmonic

    answered = {}
    for group in table.groups:
        if group.scope in ("base", "new") and not group.average and group.dataset in datasets:
            ours, theirs = (table.cells[group.label, label, shots].records for label in pair)
            own = _answer(ours, theirs, answers, table.main)
            answered[group.dataset, group.scope] = own
    seeds = sorted(set.intersection(*map(set, answered.values())))
    for own in answered.values():
        if len({outcome.queries.digest for seed in seeds for outcome in own[seed][:2]}) != 1:
            return {}
    halves = {name: (answered[name, "base"], answered[name, "new"]) for name in datasets}
    mine, others = (
        {
            name: [np.stack([scores(own[s][side], table.main) for s in seeds]) for own in both]
            for name, both in halves.items()
        }
        for side in (0, 1)
    )
    units = {name: [[own[s][2] for own in both] for s in seeds] for name, both in halves.items()}
    return spread_harmonic(mine, others, [(s.split, s.train) for s in seeds], units)


def _adjust(results: Sequence[Comparison]) -> list[float]:
    """The p-values of one family after Holm; 1 for comparisons that no test was made of."""
    from fewshot_bench.analysis.statistics.intervals import holm

    tested = iter(holm([result.p for result in results if result.tested]))
    return [next(tested) if result.tested else 1.0 for result in results]


def _standings(
    metric: Metric, pairs: Sequence[_Paired], single: Sequence[Contrast], shots: int
) -> Iterator[Standing]:
    from fewshot_bench.analysis.statistics.paired import compare_spreads
    from fewshot_bench.analysis.statistics.ranks import signed_rank, wins

    results = [compare_spreads(pair.spreads) for pair in pairs]
    adjusted = _adjust(results)
    for pair, result, p in zip(pairs, results, adjusted, strict=True):
        own = [contrast for contrast in single if contrast.row == pair.row.label]
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


def _detectable(pairs: Sequence[_Paired], shots: int) -> Iterator[Detectable]:
    from fewshot_bench.analysis.statistics.paired import TINY
    from fewshot_bench.analysis.statistics.power import detectable, planned_error

    by_set: defaultdict[str, list[Spread]] = defaultdict(list)
    for pair in pairs:
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
        groups = table.plain_groups(shots)
        whole = {}
        for row in table.rows:
            cells = [table.cell(group, row, shots) for group in groups]
            means = [c.estimates[table.metric].mean for c in cells if table.metric in c.estimates]
            if len(means) == len(groups):
                whole[row.label] = [sign * rank_score(mean) for mean in means]
        if len(groups) < RANKED_FROM or len(whole) < 2:
            continue
        scores = list(zip(*whole.values(), strict=True))
        ranks = [float(rank) for rank in average_ranks(scores)]
        names, ordered = zip(
            *sorted(zip(whole, ranks, strict=True), key=lambda p: p[1]), strict=True
        )
        critical = critical_difference(len(whole), len(groups))
        alike = tuple(
            tuple(names[index] for index in clique) for clique in cliques(list(ordered), critical)
        )
        yield Ranking(shots, len(groups), names, ordered, friedman(scores)[1], critical, alike)


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
    return _spread(_answer(ours, theirs, answers, metric), metric, dataset)


def _answer(
    ours: Mapping[Seed, Record], theirs: Mapping[Seed, Record], answers: Answers, metric: Metric
) -> dict[Seed, tuple[Outcome, Outcome, Any]]:
    """The predictions of both by common seed, where readable, and the units of their difference."""
    from fewshot_bench.analysis.statistics.effects import coarser

    answered = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        if not _same_split(ours[seed], theirs[seed]):
            continue
        first, second = answers(ours[seed]), answers(theirs[seed])
        if first is None or second is None:
            continue
        if first.has_scores(metric) and second.has_scores(metric):
            units = coarser(_units(ours[seed], first), _units(theirs[seed], second))
            answered[seed] = first, second, units
    return answered


def _units(record: Record, outcome: Outcome) -> Any:
    """(images,) the first image of each image's batch, or of the stream: these are one draw.

    None for a record whose answers do not depend on other queries: each image is one.
    """
    from fewshot_bench.analysis.statistics.effects import units_of

    queries = record.spec.queries
    if queries == ALONE or record.entry("footprint", "depends_on_queries") is False:
        return None
    groups = outcome.read(False).groups
    return None if groups is None else units_of(groups * (not is_stream(queries)))


def _spread(
    answered: Mapping[Seed, tuple[Outcome, Outcome, Any]], metric: Metric, dataset: str
) -> Spread | str:
    from fewshot_bench.analysis.statistics.effects import spread

    if not answered:
        return "no common seed with identical splits and logits"
    ours, theirs, units = zip(*answered.values(), strict=True)
    outcomes = [*ours, *theirs]
    if len({outcome.queries.digest for outcome in outcomes}) > 1:
        return "the test images differ between seeds or methods"
    if len(outcomes[0].labels) < 2:
        return "one test image says nothing about others"
    mine, other = ([scores(outcome, metric) for outcome in side] for side in (ours, theirs))
    return spread(mine, other, dataset, [(seed.split, seed.train) for seed in answered], units)


def scores(outcome: Outcome, metric: Metric) -> Any:
    """(images,) scores whose mean is the metric / 100, the unit that `statistics` expects."""
    return outcome.scores(metric) * (metric.scale / 100)


def _same_split(ours: Record, theirs: Record) -> bool:
    if 0 in (ours.spec.shots, theirs.spec.shots):
        return True
    return split_digest(ours.split) == split_digest(theirs.split) != ""


def variations(table: Table, answers: Answers) -> Iterator[Variation]:
    """Variance components of every cell with several support sets and several training seeds."""
    from fewshot_bench.analysis.statistics.variance import components, sampling_variance

    if table.main.scores is None:
        return
    places = (
        (k, group, row)
        for k in table.shots
        for group in table.plain_groups(k)
        for row in table.rows
    )
    for shots, group, row in places:
        records = table.cell(group, row, shots).records
        if min(len({s.split for s in records}), len({s.train for s in records})) < 2:
            continue
        if all(seed.split == seed.train for seed in records):
            # Each support set has the training seed of the same number: nothing is crossed.
            continue
        outcomes = {
            seed: outcome
            for seed, record in records.items()
            if (outcome := answers(record)) is not None and outcome.has_scores(table.main)
        }
        images = {seed: scores(outcome, table.main) for seed, outcome in outcomes.items()}
        means = {(seed.split, seed.train): 100 * float(own.mean()) for seed, own in images.items()}
        if not outcomes:
            continue
        if len({outcome.queries.digest for outcome in outcomes.values()}) > 1:
            problem = "the test images differ between seeds"
            yield Variation(row.label, group.label, shots, None, problem)
            continue
        try:
            units = [_units(records[seed], outcome) for seed, outcome in outcomes.items()]
            sampling = sampling_variance(list(images.values()), units)
            yield Variation(row.label, group.label, shots, components(means, sampling))
        except UsageError as error:
            yield Variation(row.label, group.label, shots, None, str(error))
