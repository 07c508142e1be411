"""Two methods on the same splits and test images: difference, 95 % interval and p-value.

Question. The difference in expected accuracy over support sets, training and test images, on D data
sets with equal weight. Data sets are fixed, not drawn: no inference about other data sets (the rank
tests in `ranks` treat them as draws).

Model. The difference of seed s on image i of a data set is `m + a_s + b_i + e_si`: seed noise
(support set and training), image noise that all seeds share, and the interaction of seed and image.
The mean over S seeds and I images has the variance `A/S + B/I + E/(S I)`.

Why not a bootstrap alone.
- The paired bootstrap over test images (Efron and Tibshirani 1993) of seed-averaged differences has
  the variance `B/I + E/(S I)`: it treats the S seeds as fixed. With seed noise of the size seen in
  few-shot tables it rejects far more than 5 % of true nulls. Bouthillier et al. 2021 ("Accounting
  for variance in machine learning benchmarks") show how large the omitted variance is.
- Resampling seeds and images independently, the pigeonhole bootstrap (Owen 2007; McCullagh 2000),
  counts E about three times, and A only (S - 1)/S times: two thirds of it for three seeds.
- A t-test over the S seed means has no image part (the images are the same for all seeds), and
  over D data sets treated as draws it answers another question.

Method. A bootstrap's variance of a mean needs no resampling: with infinitely many resamples it is
the plug-in variance, whose mean squares have a closed form. The seed part is the variance of the
seed means divided by S, `A/S + E/(S I)`; the image part is the bootstrap variance over images minus
the interaction already in the seed part, `B/I`. Their sum is the unbiased
`(MS_seed + MS_image - MS_rest) / (S I)`, summed over data sets and divided by D^2. The statistic is
referred to Student's t with the degrees of freedom of Satterthwaite's (1946) formula, modified for
few seeds as explained in `freedom`. Where only seeds are tested, they are the fewest degrees of any
data set. The sum is not raised to the bootstrap's variance if it is smaller: the level would drop
to 2 % where seeds do not matter. p-value and interval come from one distribution: the interval
excludes 0 exactly when p < 0.05.

Several training seeds on the same support set are not independent runs. The support sets are the
draws then, each with the mean of its runs; if they share their training seeds, the variance between
these is a separate part, `T/K`, with K - 1 degrees of freedom.

With one seed, seed noise cannot be estimated, and the comparison is conditional on that seed: the
image part alone, as in a paired t-test over images (McNemar's test without its correction, for
hits). The result has `conditional` set. A small p then means that these two fitted classifiers
differ, not that the methods do.

References: Efron and Tibshirani 1993, An introduction to the bootstrap, ch. 6; Owen 2007, The
pigeonhole bootstrap; Satterthwaite 1946, An approximate distribution of estimates of variance
components; Demsar 2006, Statistical comparisons of classifiers over multiple data sets;
Benavoli, Corani and Mangili 2016, Should we really use post-hoc tests based on mean-ranks?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fewshot_bench.analysis.statistics.effects import SET, Runs, Scores, Spread, spread
from fewshot_bench.analysis.statistics.freedom import combine
from fewshot_bench.utils.errors import UsageError

__all__ = ["Comparison", "Scores", "compare_paired", "compare_spreads"]

LEVEL = 0.05
# Below this (two seeds have 1) the t-interval is too wide to be informative.
LEAST_FREEDOM = 2
TINY = 1e-9  # of the difference: below it a standard error is rounding, not variance


@dataclass(frozen=True, slots=True)
class Comparison:
    """The mean difference over data sets, in points (100 x score), with its uncertainty.

    low, high: 95 % interval. p: two-sided, for no difference.
    datasets: their number. seeds: number of seeds (support sets, if several runs share one) of the
        data set with the fewest. images: total over all data sets; batches count once.
    conditional: whether a data set has only one seed, so that the interval lacks seed noise.
    error, freedom: standard error in points and degrees of freedom of Student's t. If nothing
        varies (every image of a tiny test set won by one side), the test is undecided: p is 1 and
        the interval covers every possible difference in accuracy.
    spreads: by data set, the variances that the error is computed from.
    """

    difference: float
    low: float
    high: float
    p: float
    datasets: int
    seeds: int
    images: int
    conditional: bool
    error: float
    freedom: float
    spreads: Mapping[str, Spread]

    @property
    def units(self) -> frozenset[str]:
        """The kinds of draws of the test sets: `IMAGE`, `ANEW`, `BATCH` or `SET`."""
        return frozenset(spread.unit for spread in self.spreads.values())

    @property
    def tested(self) -> bool:
        """False where a test set that counts as one draw, and one run, leave nothing to test."""
        return self.error > 0 or SET not in self.units

    @property
    def bounded(self) -> bool:
        """True when the interval is informative: with two degrees of freedom or more."""
        return self.error > 0 and self.freedom >= LEAST_FREEDOM


def compare_paired(
    ours: Mapping[str, Scores],
    theirs: Mapping[str, Scores],
    runs: Mapping[str, Runs] | None = None,
) -> Comparison:
    """Compare two methods over the same data sets, seeds and test images.

    ours, theirs: by data set, per seed an array (images,) of hits (0 or 1) or other scores, higher
    is better; the n-th seed of both was fitted on the same support set. Data sets may differ in
    their numbers of seeds and images and have equal weight.
    runs: by data set, the split and training seed of each array; needed if several training seeds
    share a support set, since these are not independent draws.
    UsageError unless both have the same data sets, seeds and images.
    """
    if set(ours) != set(theirs):
        odd = ", ".join(sorted(set(ours) ^ set(theirs)))
        raise UsageError(
            f"only one of the two methods has scores on {odd}: expected the same data sets of "
            "both; run what is missing or leave these out"
        )
    runs = runs or {}
    return compare_spreads(
        {name: spread(ours[name], theirs[name], name, runs.get(name)) for name in ours}
    )


def compare_spreads(spreads: Mapping[str, Spread]) -> Comparison:
    """As `compare_paired`, from the spread of each data set; a single data set will do."""
    from scipy import special

    if not spreads:
        raise UsageError("no data set to compare on: expected at least one that both methods have")
    parts = list(spreads.values())
    difference = math.fsum(each.difference for each in parts) / len(parts)
    error, freedom = error_of(parts)
    p, half = 1.0, 0.0
    if error <= TINY * max(1.0, abs(difference)):
        error = 0.0
    if error:
        p = float(2 * special.stdtr(freedom, -abs(difference) / error))
        half = error * float(special.stdtrit(freedom, 1 - LEVEL / 2))
    low, high = difference - half, difference + half
    if difference and not half:
        high = max(100.0, abs(difference))
        low = -high
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p=p,
        datasets=len(parts),
        seeds=min(each.seeds for each in parts),
        images=sum(each.images for each in parts),
        conditional=any(each.seed is None for each in parts),
        error=error,
        freedom=freedom,
        spreads=dict(spreads),
    )


def error_of(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Standard error of the mean difference over data sets, in points, and degrees of freedom."""
    weight = 1 / len(spreads) ** 2
    parts = [weight * max(0.0, each.seed_part) for each in spreads]
    parts += [weight * each.training for each in spreads]
    image = max(0.0, weight * math.fsum(each.image_part for each in spreads))
    square = weight**2 * math.fsum(each.image_square for each in spreads)
    freedoms = [max(1, each.seeds - 1) for each in spreads]
    freedoms += [max(1, each.trainings - 1) for each in spreads]
    return math.sqrt(math.fsum(parts) + image), combine(parts, freedoms, image, square)
