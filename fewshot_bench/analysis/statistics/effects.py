"""Paired differences on one data set (seeds x images): mean and variance components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewshot_bench.analysis.statistics.runs import shared_trainings
from fewshot_bench.utils.errors import UsageError

Scores = Sequence[ArrayLike]
"""Per seed an array (images,): the same images in the same order for all seeds of a data set."""
Runs = Sequence[tuple[int, int]]
"""Per array the split seed (of the support set) and the training seed of the run."""
Units = NDArray[np.int64]
"""(images,) the first image of each image's unit: images answered together are one draw."""
# What was drawn for a test set: its images one by one, images in batches that were drawn anew for
# each run, batches that all runs share, or all images at once.
IMAGE, ANEW, BATCH, SET = "image", "anew", "batch", "set"


@dataclass(frozen=True, slots=True)
class Spread:
    """Variance of paired differences of one data set: two-way random effects, seeds by images.

    All in points (100 x score) and points squared. The three estimates are unbiased and therefore
    can be negative; their sum is used as it is, a reader is shown `max(0, ...)`.

    difference: mean over seeds and images.
    seed: variance between seeds (support set and training), free of test image noise; None for one
        seed, which carries no information about other seeds.
    image: variance between test images that all seeds share; with one seed, all of it.
    interaction: variance specific to one seed and one image; 0 for one seed.
    training: variance of `difference` under a new draw of training seeds, if all support sets were
        trained with the same `trainings` seeds; else 0, and that variance is part of `seed`.
    unit: what was drawn: of `BATCH`, `images` is the number of batches; one `SET` says nothing
        about others, and `image` is 0.
    """

    seeds: int
    images: int
    difference: float
    seed: float | None
    image: float
    interaction: float
    training: float = 0.0
    trainings: int = 1
    unit: str = IMAGE

    @property
    def seed_part(self) -> float:
        """Variance of `difference` under a new draw of seeds: that of the seed means / seeds.

        The seed means also vary by the interaction, so its share is included here, once.
        """
        if self.seed is None:
            return 0.0
        return (self.seed + self.interaction / self.images) / self.seeds

    @property
    def image_part(self) -> float:
        """Variance of `difference` under a new draw of images, for the part shared by all seeds."""
        return self.image / self.images

    @property
    def image_square(self) -> float:
        """Squared image part / (images - 1), its degrees of freedom, for Satterthwaite's sum.

        Not computed from the two mean squares whose difference it is: if seeds share no image
        noise, those are far larger, and a part close to 0 would get few degrees of freedom (the
        level was 1.9 % then).
        """
        return max(0.0, self.image_part) ** 2 / max(1, self.images - 1)


def spread(
    ours: Scores,
    theirs: Scores,
    dataset: str = "this data set",
    runs: Runs | None = None,
    units: Sequence[Units | None] = (),
) -> Spread:
    """Mean and variances of the differences `ours - theirs` of one data set.

    ours, theirs: per seed an array (images,); the n-th arrays of both have the same support set.
    runs: needed if several arrays share a support set, since they are not independent draws then.
    units: per seed the images that were answered together (`coarser`); None: each by itself.
    UsageError unless both have the same seeds and images, at least two images, and are finite.
    """
    difference = 100.0 * (_matrix(ours, dataset) - _matrix(theirs, dataset, like=_shape(ours)))
    difference, unit = gather(difference, units)
    if runs is None:
        return replace(spread_of(difference), unit=unit)
    if len(runs) != len(difference):
        raise UsageError(
            f"{len(runs)} pairs of seeds for {len(difference)} runs on '{dataset}': expected one "
            "pair for each"
        )
    return replace(spread_of_runs(difference, runs), unit=unit)


def units_of(groups: Any) -> Units:
    """(images,) the first image of each image's group. groups: (images,) their numbers."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(first[numbers], np.int64)


def coarser(first: Units | None, second: Units | None) -> Units | None:
    """The units of a difference of two runs: the larger ones; all images at once if neither is."""
    if first is None or second is None:
        return second if first is None else first
    if (first[second] == first).all():
        return first
    return second if (second[first] == second).all() else np.zeros_like(first)


def gather(
    values: NDArray[np.float64], units: Sequence[Units | None]
) -> tuple[NDArray[np.float64], str]:
    """Values (runs, images) as (runs, units) with the same means, and what a unit is.

    Each unit has the sum of its images' deviations from the mean of all, in the scale of images:
    the variance of their mean is then that of a sum over independent clusters. Batches that were
    drawn anew for each run need no units: what images of a batch share varies with the run, and so
    is part of the variance between runs.
    """
    drawn = [own for own in units if own is not None]
    if not drawn:
        return values, IMAGE
    if not any(own.any() for own in drawn):
        return values.mean(axis=1, keepdims=True), SET
    if len(drawn) < len(values) or any((own != drawn[0]).any() for own in drawn):
        return values, ANEW
    numbers, count = np.unique(drawn[0], return_inverse=True)[1], len(np.unique(drawn[0]))
    mean, scale = values.mean(), count / values.shape[1]
    sums = [np.bincount(numbers, row - mean, count) for row in values]
    return mean + scale * np.array(sums), BATCH


def spread_of_runs(values: NDArray[np.float64], runs: Runs) -> Spread:
    """The spread of runs (runs, images), several of which may share a support set.

    The support sets are the draws then, each with the mean of its runs. Training seeds common to
    all support sets shift them together, invisibly to the variance between them: this part is
    estimated separately, from the table of support sets x training seeds. With a single support
    set, its runs are the draws.
    """
    splits = sorted({split for split, _ in runs})
    if len(splits) in (1, len(runs)):
        return spread_of(values)
    rows = [[index for index, (own, _) in enumerate(runs) if own == split] for split in splits]
    between = spread_of(np.stack([values[row].mean(axis=0) for row in rows]))
    means = {run: float(row.mean()) for run, row in zip(runs, values, strict=True)}
    shared = shared_trainings(means)
    if len(shared) < 2:
        return between
    # Same two-way random effects table, with training seeds in place of images.
    table = spread_of(np.array([[means[split, train] for train in shared] for split in splits]))
    return replace(between, training=max(0.0, table.image_part), trainings=len(shared))


def spread_of(values: NDArray[np.float64]) -> Spread:
    """The spread of a matrix (seeds, images), in the unit of its values.

    Mean squares of the two-way table without replication and their expectations: Searle, Casella
    and McCulloch 1992, section 4.3 and table 4.9.
    """
    seeds, images = values.shape
    grand = float(values.mean())
    if images == 1:
        seed = float(values.var(ddof=1)) if seeds > 1 else None
        return Spread(seeds, images, grand, seed, 0.0, 0.0)
    centered = values - grand
    by_seed, by_image = centered.mean(axis=1), centered.mean(axis=0)
    image_square = seeds * float(by_image @ by_image) / (images - 1)
    if seeds == 1:
        return Spread(1, images, grand, None, image_square, 0.0)
    rest = centered - by_image - by_seed[:, None]
    interaction = float(np.einsum("si,si->", rest, rest)) / ((seeds - 1) * (images - 1))
    seed_square = images * float(by_seed @ by_seed) / (seeds - 1)
    return Spread(
        seeds=seeds,
        images=images,
        difference=grand,
        seed=(seed_square - interaction) / images,
        image=(image_square - interaction) / seeds,
        interaction=interaction,
    )


def _shape(scores: Scores) -> tuple[int, ...]:
    return len(scores), *(np.shape(scores[0]) if len(scores) else ())


def _matrix(
    scores: Scores, dataset: str, like: tuple[int, ...] | None = None
) -> NDArray[np.float64]:
    """Stack scores to (seeds, images); UsageError for unequal shapes or values not finite."""
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    shapes = sorted({row.shape for row in rows})
    if len(shapes) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise UsageError(
            f"scores of '{dataset}' have the shapes {shapes}: expected for every seed one number "
            "for each of the same two or more test images"
        )
    table = np.stack(rows)
    if like is not None and table.shape != like:
        raise UsageError(
            f"scores of '{dataset}' are of {like[0]} seeds x {like[1]} images and of "
            f"{table.shape[0]} x {table.shape[1]}: expected the same seeds and images of both "
            "methods; leave out the seeds that only one has"
        )
    if not np.isfinite(table).all():
        raise UsageError(f"scores of '{dataset}' are not all finite: leave that record out")
    return table
