"""What belongs to no class: a threshold on the probability, from images of none of the classes.

`gather_others` reads them, `measure` sets the threshold and says what it does on images that did
not set it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api.dataset import DatasetCard, Stamp, file_stamp
from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import group_copies, look_closely
from fewshot_bench.plugins.models.estimates import wilson
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.store.kept_models import ModelConfig, Stated
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.text import few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material

    Floats = NDArray[np.float64]

LEAST = 10
"""Minimum images of none of the classes."""


class _Files:
    """Images that have no class, as a data set."""

    def card(self) -> DatasetCard:
        return DatasetCard("negatives", "Images of none of the classes", ())

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {}

    def read(self, item: Item) -> bytes:
        return Path(item.id).read_bytes()

    def stamp(self, item: Item) -> Stamp | None:
        return file_stamp(item.id)


@dataclass(frozen=True)
class Others:
    """Images of none of the classes; groups: (n,) lowest index of the copies of each."""

    dataset: _Files
    items: tuple[Item, ...]
    groups: NDArray[np.int64]
    note: str


def gather_others(folder: Path, material: Material) -> Others:
    """All images below a folder, without copies of those in `material`; UsageError for too few."""
    dataset = _Files()
    items = [Item(path, 0, "") for path in list_images([str(folder.absolute())])]
    facts = look_closely(dataset, items)
    first = len(material.items)
    groups = group_copies([*material.items, *items], [*material.looks.facts, *facts]).groups[first:]
    names = [os.path.relpath(item.id, folder) for item in items]
    lost = [name for name, fact in zip(names, facts, strict=True) if isinstance(fact, str)]
    copied = [name for name, group in zip(names, groups, strict=True) if group < first]
    kept = [index for index, name in enumerate(names) if name not in {*lost, *copied}]
    note = f"--negatives: {len(kept):,} images"
    note += f"; left out as copies of images of classes: {few(copied)}" if copied else ""
    note += f"; left out as unreadable: {few(lost)}" if lost else ""
    if len({*groups[kept].tolist()}) < LEAST:
        raise UsageError(f"{note}; expected {LEAST} or more in {folder} that are no copies")
    return Others(dataset, tuple(items[index] for index in kept), groups[kept], note)


def measure(
    learned: Learned, others: Floats, groups: NDArray[np.int64], share: float | None
) -> tuple[float | None, Stated]:
    """The threshold, and what it keeps and catches.

    others: (n,) highest probabilities of the kept model for images of none of the classes; groups:
    (n,) lowest index of the copies of each. share: of right answers to keep; by default, the sum of
    right answers kept and others caught is largest. Each half of the images is measured by the
    threshold of the other half. None without right answers in both.
    """
    each, side, foreign = learned.each[:, learned.held], _halve(learned.groups), _halve(groups)
    right, sure = each.argmax(axis=2) == learned.labels[learned.held], each.max(axis=2)
    side = side[learned.held]
    if not all(right[:, side == half].any() for half in (0, 1)):
        return None, Stated()
    halves = [(right & (side != half), foreign != half) for half in (0, 1)]
    limits = np.array([_limit(sure[own], others[other], share) for own, other in halves])
    kept = float((sure >= limits[side])[right].mean())
    caught = float((others < limits[foreign]).mean())
    ever = learned.groups[learned.held][right.any(axis=0)]
    (low, high), (least, most) = wilson(kept, len({*ever})), wilson(caught, len({*groups}))
    stated = Stated(kept=kept, kept_low=low, kept_high=high, negatives=float(len(others)))
    stated |= Stated(caught=caught, caught_low=least, caught_high=most)
    return _limit(sure[right], others, share), stated


def _halve(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) 0 or 1 at random, the same for copies."""
    numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
    order = np.random.default_rng(derive(0, "negatives")).permutation(numbers.max() + 1)
    sides: NDArray[np.int64] = order[numbers] % 2
    return sides


def _limit(right: Floats, others: Floats, share: float | None) -> float:
    """The threshold that keeps a share of right answers, or that divides them best from others."""
    if share is not None:
        return float(np.quantile(right, 1 - share, method="lower"))
    values = np.unique(np.concatenate([right, others]))
    limits = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    lost, caught = (np.searchsorted(np.sort(part), limits) / len(part) for part in (right, others))
    return float(limits[(caught - lost).argmax()])


def describe(config: ModelConfig) -> str:
    """What is rejected, and how well that does where it was measured; empty if nothing is."""
    if config.reject is None:
        return ""
    stated: Mapping[str, Any] = config.accuracy
    said = f"images with a probability below {config.reject:.3f} belong to no class"
    if "caught" not in stated:
        return f"{said}: the unsure, not all that is foreign (--negatives measures it)"
    caught, kept = (
        "{:.0f} % ({:.0f} to {:.0f})".format(
            *(100 * stated[f"{name}{end}"] for end in ("", "_low", "_high"))
        )
        for name in ("caught", "kept")
    )
    count = stated["negatives"]
    return f"{said}: {caught} of {count:,.0f} others are caught, {kept} of right answers kept"
