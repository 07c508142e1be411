"""Which methods are told apart: paired comparisons over the same test images."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewshot_bench.compare.mixing import digest
from fewshot_bench.compare.model import Group
from fewshot_bench.compare.pairing import BY_IMAGE, scores
from fewshot_bench.compare.significance import LEVEL
from fewshot_bench.record import Record
from fewshot_bench.report.headline import Contestant, Headline
from fewshot_bench.report.readings import Reading, Readings

if TYPE_CHECKING:
    import numpy as np

    from fewshot_bench.statistics.paired import Comparison

# More pairs than this are not all tested: the correction would leave nothing to see.
MOST_PAIRS = 300


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison, first minus second in points; `p` is corrected after Holm, `raw` is not.

    won, lost: on how many data sets alone the first is significantly better, or worse.
    conditional: there is one seed, and the comparison is about these very fits.
    visible: the least difference that the uncorrected test finds four times in five.
    """

    difference: float
    low: float
    high: float
    p: float
    raw: float
    datasets: int
    won: int
    lost: int
    conditional: bool
    visible: float

    @property
    def significant(self) -> bool:
        """Whether the two are told apart at 5 %."""
        return self.p < LEVEL

    @property
    def tied(self) -> int:
        """On how many data sets the two are not told apart."""
        return self.datasets - self.won - self.lost

    def turned(self) -> Pair:
        """The same comparison, second minus first."""
        return dataclasses.replace(
            self,
            difference=-self.difference,
            low=-self.high,
            high=-self.low,
            won=self.lost,
            lost=self.won,
        )


@dataclass(frozen=True)
class Pairs:
    """Comparisons by the labels of both rows; `family` is how many p-values were corrected.

    `why` says why there is none at all, else it is empty; `reasons` why two have none.
    """

    found: Mapping[tuple[str, str], Pair]
    family: int
    reasons: Mapping[tuple[str, str], str]
    why: str = ""

    @property
    def conditional(self) -> bool:
        """Whether some comparison rests on one seed."""
        return any(pair.conditional for pair in self.found.values())

    def of(self, ours: Contestant, theirs: Contestant) -> Pair | None:
        """The comparison ours minus theirs; None where none could be made."""
        key = ours.row.label, theirs.row.label
        if key in self.found:
            return self.found[key]
        other = self.found.get((key[1], key[0]))
        return other.turned() if other else None


def compared(headline: Headline, readings: Readings) -> Pairs:
    """Every two contestants on the images of the headline, corrected together after Holm.

    All pairs are in the family, so that the correction also covers that the winner, and who comes
    next, were found by looking at the same numbers. Only where there are too many pairs for that,
    the winner alone is compared.
    """
    from fewshot_bench.statistics.multiple import holm
    from fewshot_bench.statistics.paired import compare_paired

    if headline.group.scope == "H":
        return Pairs({}, 0, {}, "a harmonic mean has no value per image, so no paired test")
    if headline.table.metric not in BY_IMAGE:
        return Pairs({}, 0, {}, f"{headline.table.metric} has no value per image")
    ranked = headline.ranked
    keys, results, reasons = [], [], {}
    for ours, theirs in _pairs(ranked):
        key = ours.row.label, theirs.row.label
        sides = _sides(headline, readings, ours, theirs)
        if isinstance(sides, str):
            reasons[key] = sides
            continue
        keys.append(key)
        results.append(compare_paired(*sides))
    corrected = holm([result.p for result in results])
    pairs = map(_pair, results, corrected)
    found = dict(zip(keys, pairs, strict=True))
    why = next(iter(reasons.values()), "") if not found else ""
    return Pairs(found, len(results), reasons, why)


def _pair(found: Comparison, corrected: float) -> Pair:
    from fewshot_bench.statistics.paired import compare_spreads
    from fewshot_bench.statistics.power import detectable
    from fewshot_bench.statistics.ranks import wins

    single = [compare_spreads({name: part}) for name, part in found.spreads.items()]
    counts = wins(single, LEVEL)
    return Pair(
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=float(corrected),
        raw=found.p,
        datasets=found.datasets,
        won=counts.win,
        lost=counts.loss,
        conditional=found.conditional,
        visible=detectable(found.spreads),
    )


def _pairs(ranked: Sequence[Contestant]) -> Iterable[tuple[Contestant, Contestant]]:
    if len(ranked) * (len(ranked) - 1) // 2 > MOST_PAIRS:
        return [(ranked[0], other) for other in ranked[1:]]
    return itertools.combinations(ranked, 2)


Side = dict[str, list["np.ndarray"]]


def _sides(
    headline: Headline, readings: Readings, ours: Contestant, theirs: Contestant
) -> tuple[Side, Side] | str:
    """Scores per data set and seed of both, or why they cannot be paired."""
    mine: Side = {}
    other: Side = {}
    for group in headline.members:
        rows = _paired_rows(headline, readings, ours, theirs, group)
        if not rows:
            return f"no identical splits and test images with logits on {group.label}"
        if len({reading.queries for pair in rows for reading in pair}) > 1:
            return f"the test images differ between seeds on {group.label}"
        metric = headline.table.metric
        mine[group.label] = [_scores(reading, metric) for reading, _ in rows]
        other[group.label] = [_scores(reading, metric) for _, reading in rows]
    return mine, other


def _paired_rows(
    headline: Headline, readings: Readings, ours: Contestant, theirs: Contestant, group: Group
) -> list[tuple[Reading, Reading]]:
    found = []
    for seed in group.seeds:
        records = headline.record_of(ours, group, seed), headline.record_of(theirs, group, seed)
        one, two = map(readings.of, records)
        if one and two and one.queries == two.queries and _same_split(*records):
            found.append((one, two))
    return found


def _same_split(one: Record | None, two: Record | None) -> bool:
    """Equal support sets; a method without shots has none, and is paired by test images alone."""
    if one is None or two is None:
        return False
    return 0 in (one.spec.shots, two.spec.shots) or digest(one) == digest(two)


def _scores(reading: Reading, metric: str) -> np.ndarray:
    found: np.ndarray = scores(reading.correct, reading.labels, reading.classes, metric)
    return found
