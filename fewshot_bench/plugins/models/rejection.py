"""What belongs to no class: a threshold on the probability, from images of none of the classes.

`gather_others` reads such images, `measure` sets the threshold and says what it does on images that
did not set it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.dataset import DatasetCard, Stamp, file_stamp
from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import group_copies, look_closely
from fewshot_bench.plugins.models.estimates import confidences, wilson
from fewshot_bench.plugins.models.inputs import list_images
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.rng import derive
from fewshot_bench.utils.text import few

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fewshot_bench.plugins.models.learned import Learned
    from fewshot_bench.plugins.models.material import Material
    from fewshot_bench.store.kept_models import ModelConfig

    Floats = NDArray[np.float64]
    Rule = Callable[[Floats, Floats], float]

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
    items = [Item(path, 0, "") for path in list_images([str(folder)])]
    facts = look_closely(dataset, items)
    first = len(material.items)
    groups = group_copies([*material.items, *items], [*material.looks.facts, *facts]).groups[first:]
    lost = [item.id for item, fact in zip(items, facts, strict=True) if isinstance(fact, str)]
    copied = [item.id for item, group in zip(items, groups, strict=True) if group < first]
    kept = [index for index, item in enumerate(items) if item.id not in {*lost, *copied}]
    note = f"--negatives: {len(kept):,} images"
    note += f"; copies of images of the classes are left out: {few(copied)}" if copied else ""
    note += f"; unreadable ones are left out: {few(lost)}" if lost else ""
    if len(kept) < LEAST:
        raise UsageError(f"{note}; expected {LEAST} or more in {folder}")
    return Others(dataset, tuple(items[index] for index in kept), groups[kept], note)


def measure(
    learned: Learned, logits: NDArray[np.float32], others: Others, temperature: float, rule: Rule
) -> tuple[float | None, dict[str, float]]:
    """The threshold by all images, and entries of the config's accuracy: what it keeps and catches.

    learned: answers to held-out images; logits: (n, classes) of the kept model for the others. Each
    half of the images is measured with a threshold by the other half. None without right answers
    in both halves.
    """
    sure, right = learned.each[:, learned.held].max(axis=2), _right(learned)
    other = confidences(logits, temperature)
    own, foreign = _halve(learned.groups[learned.held]), _halve(others.groups)
    if not all(right[:, own == half].any() for half in (0, 1)):
        return None, {}
    limits = np.array(
        [rule(sure[:, own != h][right[:, own != h]], other[foreign != h]) for h in (0, 1)]
    )
    shares = {
        "kept": (float((sure >= limits[own])[right].mean()), right.mean(axis=0).sum()),
        "caught": (float((other < limits[foreign]).mean()), len(set(others.groups.tolist()))),
    }
    stated = {"negatives": float(len(other))}
    for name, (share, images) in shares.items():
        low, high = wilson(share, float(images))
        stated |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return rule(sure[right], other), stated


def _right(learned: Learned) -> NDArray[np.bool_]:
    answers = learned.each[:, learned.held].argmax(axis=2)
    right: NDArray[np.bool_] = answers == learned.labels[learned.held]
    return right


def _halve(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) 0 or 1 at random, the same for copies."""
    _, numbers = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(derive(0, "negatives"))
    sides: NDArray[np.int64] = rng.permutation(numbers.max() + 1)[numbers] % 2
    return sides


def most_apart(right: Floats, others: Floats) -> float:
    """The threshold with the largest sum of right answers kept and others caught, as shares."""
    values = np.unique(np.concatenate([right, others]))
    limits = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2])
    below = [np.searchsorted(np.sort(part), limits) / len(part) for part in (right, others)]
    return float(limits[(below[1] - below[0]).argmax()])


def keep_share(share: float) -> Rule:
    """The rule that a share of right answers is kept, whatever it catches."""
    return lambda right, others: float(np.quantile(right, 1 - share, method="lower"))


def describe(config: ModelConfig) -> str:
    """What is rejected, and how well that does where it was measured; empty if nothing is."""
    if config.reject is None:
        return ""
    said = f"images with a probability below {config.reject:.3f} belong to no class"
    if "caught" not in config.accuracy:
        return f"{said}: unsure ones, not all that is foreign (--negatives measures it)"
    caught, kept = (
        "{:.0f} % ({:.0f} to {:.0f})".format(
            *(100 * config.accuracy[f"{name}{end}"] for end in ("", "_low", "_high"))
        )
        for name in ("caught", "kept")
    )
    count = config.accuracy["negatives"]
    return f"{said}: {caught} of {count:,.0f} others are caught, {kept} of right answers kept"
