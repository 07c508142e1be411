"""Differences in the harmonic mean H of base and new scores, as differences of images.

H = 2bn / (b + n) is homogeneous: it is exactly `b dH/db + n dH/dn`, a mean of the scores of images,
each with the weight of its half. `spread_harmonic` takes these weights as given (delta method).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.analysis.statistics.effects import Runs, Spread, spread

# By data set, the scores (seeds, images) of base and of new.
Halves = Mapping[str, Sequence[NDArray[Any]]]


def spread_harmonic(
    ours: Halves, theirs: Halves, runs: Runs, units: Mapping[str, Sequence[Sequence[Any]]]
) -> dict[str, Spread]:
    """By data set, the spread of differences; their mean over data sets is the difference in H.

    H is that of the mean base and the mean new score over data sets, seed by seed.

    Args:
        ours: scores.
        theirs: scores on the same images.
        runs: the seeds.
        units: by data set and seed, the units of base and of new images, as `spread` takes them.
    """
    mine, others = _weigh(ours), _weigh(theirs)
    found = {}
    for name, halves in ours.items():
        sizes = [half.shape[1] for half in halves]
        difference = mine[name] - others[name]
        # What the halves differ by is no variance between images.
        means = [part.mean() for part in np.split(difference, sizes[:1], axis=1)]
        other = others[name] + np.repeat(means, sizes) - difference.mean()
        joined = [_join(own, sizes) for own in units[name]]
        found[name] = spread(list(mine[name]), list(other), name, runs, joined)
    return found


def _weigh(side: Halves) -> dict[str, NDArray[Any]]:
    """By data set, weighted scores of all images; their mean over data sets is H of each seed."""
    means = [[half.mean(axis=1) for half in halves] for halves in side.values()]
    base, new = np.mean(means, axis=0)
    total = np.where(base + new > 0, base + new, 1.0)
    weights = [2 * (other / total)[:, None] ** 2 for other in (new, base)]
    return {
        name: np.concatenate(
            [w * half / half.shape[1] for w, half in zip(weights, halves, strict=True)], axis=1
        )
        * sum(half.shape[1] for half in halves)
        for name, halves in side.items()
    }


def _join(units: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The units of the images of both halves, all of them one unit if each half is one."""
    if all(own is None for own in units):
        return None
    parts = [np.arange(n) if own is None else own for own, n in zip(units, sizes, strict=True)]
    return np.concatenate(parts) + np.repeat([0, sizes[0] * any(p.any() for p in parts)], sizes)
