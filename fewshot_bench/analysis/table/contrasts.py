"""Results of a table's comparisons: contrasts with the baseline, ranks, variance components."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_bench.analysis.statistics.paired import Comparison
    from fewshot_bench.analysis.statistics.variance import Components

LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Contrast:
    """A row against the baseline, in one group or over all; `adjusted` is its p after Holm."""

    row: str
    shots: int
    group: str
    result: Comparison
    adjusted: float

    @property
    def significant(self) -> bool:
        """True if the difference is significant at 5 % after the correction."""
        return self.adjusted < LEVEL


@dataclass(frozen=True, slots=True)
class Standing:
    """A row against the baseline over all data sets at one number of shots.

    wins, ties, losses: numbers of data sets, by adjusted p-values. signed_rank: Wilcoxon's p over
    data sets, None for fewer than six. left_out: data sets that could not be paired.
    """

    overall: Contrast
    wins: int
    ties: int
    losses: int
    signed_rank: float | None
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows with a number on every data set, best first, with average ranks (1 is best).

    p: Friedman's. critical: Nemenyi's critical difference at 5 %. cliques: groups of rows whose
    ranks differ by less than that, best first.
    """

    shots: int
    datasets: int
    rows: tuple[str, ...]
    ranks: tuple[float, ...]
    p: float
    critical: float
    cliques: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Detectable:
    """The smallest detectable difference: one below `points` is missed more than one time in five.

    Computed for the row with the median standard error among the compared ones, with its `seeds`.
    Rows whose differences to the baseline do not vary are ignored.
    """

    group: str
    shots: int
    points: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Lacking:
    """A row with fewer tested seeds in a group than its difference to the baseline has."""

    row: str
    shots: int
    group: str
    tested: int
    seeds: int


@dataclass(frozen=True)
class Significance:
    """All comparisons of a table with its baseline."""

    contrasts: tuple[Contrast, ...] = ()
    standings: tuple[Standing, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    detectable: tuple[Detectable, ...] = ()
    lacking: tuple[Lacking, ...] = ()

    @functools.cached_property
    def by_cell(self) -> dict[tuple[str, str, int], Contrast]:
        """Contrasts by group (empty for all data sets), row and shots."""
        # An average is over all data sets, so a test over only some of them does not apply to it.
        overall = (part.overall for part in self.standings if not part.left_out)
        return {(part.group, part.row, part.shots): part for part in (*self.contrasts, *overall)}


@dataclass(frozen=True, slots=True)
class Variation:
    """The variance components of one cell; `problem` is the reason if they are None."""

    row: str
    group: str
    shots: int
    components: Components | None
    problem: str = ""
