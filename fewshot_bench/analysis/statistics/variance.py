"""Variance components of accuracy: support set, training seed, and test images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fewshot_bench.analysis.statistics.effects import SET, Scores, Units, gather, spread_of
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import limited

Seeds = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Components:
    """Variances in points squared; their roots are standard deviations in points.

    support: between support sets (`split_seed`). training: between training seeds (`train_seed`).
    residual: interaction of support set and training seed (including test image noise not shared by
    runs). sampling: between test sets of this size, shared by all runs; None where the test set is
        one draw, as its images were answered together.
    clipped: names of components set to 0 because their unbiased estimate was negative.
    freedoms: degrees of freedom of support, training and residual: few, so the estimates are rough.
    """

    support: float
    training: float
    sampling: float | None
    residual: float
    clipped: tuple[str, ...]
    freedoms: tuple[int, int, int]


def components(values: Mapping[Seeds, float], sampling: float | None) -> Components:
    """Split the variance of one method's scores on one data set.

    values: score in points by (split_seed, train_seed), for every support set with every training
    seed. sampling: variance due to test images, from `sampling_variance`.
    Analysis of variance with two random effects, crossed, without replication (Searle, Casella and
    McCulloch 1992, table 4.9). UsageError unless there are two or more of both seeds, fully
    crossed: with gaps the mean squares would no longer separate the components.
    """
    splits = sorted({split for split, _ in values})
    trains = sorted({train for _, train in values})
    _check(values, splits, trains)
    table = np.array([[values[split, train] for train in trains] for split in splits])
    rows, columns = table.shape
    # Same two-way random effects table, with training seeds in place of images.
    spread = spread_of(table)
    raw = {"support": spread.seed or 0.0, "training": spread.image, "sampling": sampling or 0.0}
    kept = {name: max(0.0, value) for name, value in raw.items()}
    return Components(
        support=kept["support"],
        training=kept["training"],
        sampling=None if sampling is None else kept["sampling"],
        residual=spread.interaction,
        clipped=tuple(name for name, value in raw.items() if value < 0),
        freedoms=(rows - 1, columns - 1, (rows - 1) * (columns - 1)),
    )


def sampling_variance(scores: Scores, units: Sequence[Units | None] = ()) -> float | None:
    """Variance of a method's accuracy, in points squared, under a new draw of test images.

    scores: per run an array (images,) of hits. With several runs, only the part that all runs
    share, since the rest is in the residual of `components`; can be negative if runs share almost
    nothing. With one run, both parts together. units: as in `effects.spread`; None if all images
    of the test set are one. UsageError for fewer than two images.
    """
    table = np.stack([np.asarray(row, dtype=float) for row in scores])
    if table.shape[1] < 2:
        raise UsageError("one test image says nothing about others: expected two or more")
    values, unit = gather(100.0 * table, units)
    return None if unit == SET else spread_of(values).image_part


def _check(values: Mapping[Seeds, float], splits: list[int], trains: list[int]) -> None:
    if len(splits) < 2 or len(trains) < 2:
        raise UsageError(
            f"{len(splits)} split seeds and {len(trains)} training seeds: expected two or more of "
            "both, crossed (fsbench run with --split-seed 1, then 2, ..., and the same --seeds)"
        )
    gaps = [pair for pair in itertools.product(splits, trains) if pair not in values]
    if gaps:
        shown = limited([f"{split}/{train}" for split, train in gaps], 5)
        raise UsageError(
            f"no score for split seed/training seed {shown}: expected every split seed with "
            "every training seed; run what is missing or leave out that seed"
        )
    if not np.isfinite(list(values.values())).all():
        raise UsageError("scores are not all finite: leave out the seeds of that record")
