"""Rejection of images of no class, by a threshold on the probability that such images set."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.dataset import DatasetCard, Stamp, file_stamp
from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import group_copies, look_closely
from fewshot_bench.plugins.models.estimates import wilson
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.store.kept_models import ModelConfig
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.text import few, percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material

    Floats = NDArray[np.float64]

LEAST = 10


@dataclass(frozen=True)
class Others:
    """Images of none of the classes, as a data set without classes.

    groups: (n,) lowest index of the copies of each.
    """

    listed: tuple[Item, ...]
    groups: NDArray[np.int64]
    note: str = ""

    def card(self) -> DatasetCard:
        return DatasetCard("negatives", "Images of none of the classes", ())

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {"test": self.listed}

    def read(self, item: Item) -> bytes:
        return Path(item.id).read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        return file_stamp(item.id)


def gather_others(folder: Path, material: Material) -> Others:
    """All images below a folder, without copies of those in `material`; UsageError for too few."""
    if not folder.is_dir():
        raise UsageError(f"--negatives {folder}: expected a folder of images of no class")
    items = tuple(Item(path, 0, "") for path in list_images([str(folder.absolute())]))
    facts, first = look_closely(Others(items, np.arange(len(items))), items), len(material.items)
    groups = group_copies([*material.items, *items], [*material.looks.facts, *facts]).groups[first:]
    copied, lost = groups < first, np.array([isinstance(fact, str) for fact in facts])
    kept = np.flatnonzero(~(copied | lost)).tolist()
    note = f"--negatives: {len(kept):,} images"
    for said, places in (("copies of images of classes", copied), ("unreadable", lost)):
        names = [os.path.relpath(items[at].id, folder) for at in np.flatnonzero(places)]
        note += f"; left out as {said}: {few(names)}" if names else ""
    if len({*groups[kept]}) < LEAST:
        raise UsageError(f"{note}; expected {LEAST} or more in {folder} that are no copies")
    return Others(tuple(items[at] for at in kept), groups[kept], note)


def measure(
    learned: Learned, others: Floats, groups: NDArray[np.int64], share: float | None
) -> tuple[float | None, dict[str, float]]:
    """The threshold, and what it keeps and catches.

    others: (n,) highest probabilities of the kept model for images of none of the classes; groups:
    (n,) lowest index of the copies of each. share: of right answers to keep; by default, the sum of
    right answers kept and others caught is largest. Each half of the images is measured by the
    threshold of the other half. None without right answers in both.
    """
    held, foreign = learned.held, _halve(groups)
    each, side = learned.each[:, held], _halve(learned.groups)[held]
    right, sure = each.argmax(axis=2) == learned.labels[held], each.max(axis=2)
    if not all(right[:, side == half].any() for half in (0, 1)):
        return None, {}
    halves = [(right & (side != half), foreign != half) for half in (0, 1)]
    limits = np.array([_limit(sure[own], others[other], share) for own, other in halves])
    kept = float((sure >= limits[side])[right].mean())
    caught = float((others < limits[foreign]).mean())
    ever = learned.groups[held][right.any(axis=0)]
    stated = {"negatives": float(len(others))}
    for name, mean, units in (("kept", kept, {*ever}), ("caught", caught, {*groups})):
        low, high = wilson(mean, len(units))
        stated |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return _limit(sure[right], others, share), stated


def _halve(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) 0 or 1 at random, the same for copies."""
    firsts, numbers = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(derive(0, "negatives")).permutation(len(firsts))
    return np.asarray(order[numbers.reshape(-1)] % 2)


def _limit(right: Floats, others: Floats, share: float | None) -> float:
    """The threshold that keeps a share of right answers, or that divides them best from others."""
    if share is not None:
        return float(np.quantile(right, 1 - share, method="lower"))
    values = np.unique(np.concatenate([right, others]))
    limits = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    lost, caught = (np.searchsorted(np.sort(part), limits) / len(part) for part in (right, others))
    return float(limits[(caught - lost).argmax()])


def describe(config: ModelConfig) -> str:
    """The threshold, and how well it does where that was measured; empty without one."""
    if config.reject is None:
        return ""
    said, stated = f"images with a probability below {config.reject:.3f} belong", config.accuracy
    if "caught" not in stated:
        return f"{said} to no class: the unsure, not all that is foreign (--negatives measures it)"
    caught, kept = (
        percent(*(stated[name + end] for end in ("", "_low", "_high")))
        for name in ("caught", "kept")
    )
    others = f"{stated['negatives']:,.0f} others"
    return f"{said} to no class: {caught} of {others} are caught, {kept} of right answers kept"
