"""Paired comparisons of methods over the same test images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from fewshot_bench.analysis.statistics.effects import SET
from fewshot_bench.analysis.statistics.intervals import holm
from fewshot_bench.analysis.statistics.paired import TINY, Comparison, compare_spreads
from fewshot_bench.analysis.statistics.power import detectable
from fewshot_bench.analysis.statistics.ranks import signed_rank, wins
from fewshot_bench.analysis.table.significance import (
    SIGNED_RANK_FROM,
    Answers,
    paired_spread,
    remember,
)
from fewshot_bench.analysis.table.table import LEVEL
from fewshot_bench.plugins.report.headline import Contestant, Headline

# More pairs than this are not all tested: after correction nothing would be significant. Those of
# the winner and of the baseline are.
MOST_PAIRS = 300


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison, first minus second in points; `p` is corrected after Holm, `raw` is not.

    won, tied, lost: number of single data sets on which the first is significantly better, not
        told apart, or worse.
    conditional: there is one seed, and the comparison is about these very fits. together: the
        images of a test set were answered together, and the comparison is about these very sets.
    bounded: whether low and high are meaningful; not with two seeds.
    visible: the smallest difference that the uncorrected test finds four times in five; None if
        the differences of the two do not vary, and nothing says how small it is.
    signed_rank: Wilcoxon's p over data sets, None for fewer than six.
    """

    difference: float
    low: float
    high: float
    p: float
    raw: float
    won: int
    tied: int
    lost: int
    conditional: bool
    together: bool
    bounded: bool
    visible: float | None
    signed_rank: float | None

    @property
    def significant(self) -> bool:
        """True if the difference is significant at 5 %."""
        return self.p < LEVEL

    @property
    def better(self) -> bool:
        """True when the first is significantly better."""
        return self.significant and self.difference > 0

    @property
    def worse(self) -> bool:
        """True when the first is significantly worse."""
        return self.significant and self.difference < 0

    def turn(self) -> Pair:
        """The same comparison, second minus first."""
        gaps = {"difference": -self.difference, "low": -self.high, "high": -self.low}
        return dataclasses.replace(self, won=self.lost, lost=self.won, **gaps)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pairs:
    """Comparisons by the labels of both rows; `family` is the number of corrected p-values.

    `why`: reason why there is no comparison at all, or empty; `reasons`: why two rows have none.
    """

    by_labels: Mapping[tuple[str, str], Pair]
    reasons: Mapping[tuple[str, str], str]
    why: str = ""

    @property
    def family(self) -> int:
        """The number of p-values that were corrected together."""
        return len(self.by_labels)

    def of(self, ours: Contestant, theirs: Contestant) -> Pair | None:
        """The comparison ours minus theirs; None where none could be made."""
        key = ours.row.label, theirs.row.label
        if key in self.by_labels:
            return self.by_labels[key]
        other = self.by_labels.get((key[1], key[0]))
        return other.turn() if other else None


def compare(headline: Headline, answers: Answers, *, every: bool = False) -> Pairs:
    """Compare every two contestants on the images of the headline, corrected together after Holm.

    every: compares all, however many they are, with all predictions in memory, and without the
    smallest visible differences.

    All pairs are in the family, so that the correction also covers the choice of the winner and the
    runner-up by the same numbers. With more than MOST_PAIRS pairs, only the winner and the baseline
    are compared with all others.
    """
    if headline.group.scope == "H":
        return Pairs({}, {}, "a harmonic mean has no value per image, so no paired test")
    if headline.table.main.scores is None:
        return Pairs({}, {}, f"{headline.table.metric} has no value per image")
    ranked = headline.ranked
    # The winner is compared with every other one.
    often = (
        record
        for contestant in (ranked if every else ranked[:1])
        for group in headline.members
        for record in headline.records_of(contestant, group).values()
    )
    answers = remember(answers, often)
    results: dict[tuple[str, str], Comparison] = {}
    reasons = {}
    few = every or len(ranked) * (len(ranked) - 1) // 2 <= MOST_PAIRS
    for ours, theirs in itertools.combinations(ranked, 2):
        key = ours.row.label, theirs.row.label
        if not few and ours is not ranked[0] and headline.table.baseline not in key:
            continue
        result = _test(headline, answers, ours, theirs)
        if isinstance(result, str):
            reasons[key] = result
        else:
            results[key] = result
    corrected = holm([result.p for result in results.values()])
    tested = {
        key: _summarize(result, p, power=not every)
        for (key, result), p in zip(results.items(), corrected, strict=True)
    }
    return Pairs(tested, reasons, "" if tested else next(iter(reasons.values()), ""))


def _summarize(result: Comparison, corrected: float, *, power: bool) -> Pair:
    single = [compare_spreads({name: part}) for name, part in result.spreads.items()]
    counts = wins(single, LEVEL)
    gaps = [part.difference for part in single]
    visible = detectable(result.spreads) if power else 0.0
    return Pair(
        difference=result.difference,
        low=result.low,
        high=result.high,
        p=float(corrected),
        raw=result.p,
        won=counts.win,
        tied=counts.tie,
        lost=counts.loss,
        conditional=result.conditional,
        together=SET in result.units,
        bounded=result.bounded,
        visible=visible if visible > TINY else None,
        signed_rank=signed_rank(gaps) if len(gaps) >= SIGNED_RANK_FROM else None,
    )


def _test(
    headline: Headline, answers: Answers, ours: Contestant, theirs: Contestant
) -> Comparison | str:
    """Ours minus theirs over all members, or why they cannot be compared on one of them."""
    spreads = {}
    for group in headline.members:
        records = headline.records_of(ours, group), headline.records_of(theirs, group)
        spread = paired_spread(*records, answers, headline.table.main, group.label)
        if isinstance(spread, str):
            return f"{spread} on {group.label}"
        spreads[group.label] = spread
    result = compare_spreads(spreads)
    together = "the images of a test set were answered together, and there is one seed"
    return result if result.tested else together
