"""Stratified folds within given images, and validation images within a training part.

`repeat_folds` is the entry point. Every image of a class with two or more is held out once per
repeat, and no class is ever held out as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.splits.sampling import VALIDATION
from fewshot_bench.utils.rng import derive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Places = NDArray[np.int64]

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Fold:
    """Indices of the images to fit on and of the held-out images."""

    repeat: int
    number: int
    train: Places
    held_out: Places


def repeat_folds(labels: Places, repeats: int, seed: int, folds: int = FOLDS) -> Iterator[Fold]:
    """The folds of all repeats, one repeat after the other; none where no class has two images.

    labels: (n,). A class of fewer images than folds is held out in as many folds as it has images.
    """
    for repeat in range(repeats):
        part = _parts(labels, folds, derive(seed, "folds", repeat))
        for number in range(folds):
            held_out = np.flatnonzero(part == number)
            if len(held_out):
                yield Fold(repeat, number, np.flatnonzero(part != number), held_out)


def _parts(labels: Places, folds: int, seed: int) -> Places:
    """(n,) the fold that each image is held out in; -1 for the only image of a class.

    Classes are dealt out one after the other, so that folds differ by one image at most.
    """
    rng = np.random.default_rng(seed)
    part, dealt = np.full(len(labels), -1), 0
    turns = rng.permutation(folds)
    for label in rng.permutation(np.unique(labels)):
        places = np.flatnonzero(labels == label)
        if len(places) < 2:
            continue
        turn = turns[(dealt + np.arange(len(places))) % folds]
        part[rng.permutation(places)] = turn
        dealt += len(places)
    return part


def with_validation(labels: Places, train: Places, seed: int) -> tuple[Places, Places]:
    """Split a training part into images to train on and validation images.

    As in a run with the policy `min4`: half of the images of a class but at most four, and none of
    a single one.
    """
    rng, held = np.random.default_rng(derive(seed, "validation")), []
    for label in np.unique(labels[train]):
        places = train[labels[train] == label]
        held.append(rng.permutation(places)[: VALIDATION["min4"](len(places) // 2)])
    val = np.sort(np.concatenate(held)).astype(np.int64)
    return np.setdiff1d(train, val), val
