"""A data set without the images of it that cannot be used (`--skip-damaged`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fewshot_bench.api.dataset import Dataset, DatasetCard, Keeping, Stamp, Stamped, all_items
from fewshot_bench.api.task import Item
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import FEW, few, shortened

# In `RunSpec.data`: data set to the ids of its images that are left out.
SKIPPED = "skipped"


@dataclass(frozen=True)
class Without:
    """The data set `inner` without some images; classes and labels stay."""

    inner: Dataset
    skipped: tuple[str, ...]

    def card(self) -> DatasetCard:
        """The card with its own counts, and a line on what is left out."""
        return self._card

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """The pools without these images."""
        return self._pools

    def read(self, item: Item) -> bytes:
        """The encoded image."""
        return self.inner.read(item)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of the image's file where the data set has stamps."""
        return self.inner.stamp(item) if isinstance(self.inner, Stamped) else None

    def keep_split(self, *, beside: bool = False) -> Path | None:
        """Keep the whole split, so that images that are mended come back to their places."""
        return self.inner.keep_split(beside=beside) if isinstance(self.inner, Keeping) else None

    @cached_property
    def _card(self) -> DatasetCard:
        card = self.inner.card()
        line = f"damaged or missing images ({len(self.skipped)}): {few(self.skipped)}"
        counts = {role: len(items) for role, items in self._pools.items()}
        return replace(card, counts=counts, left_out=(*card.left_out, line))

    @cached_property
    def _pools(self) -> Mapping[str, tuple[Item, ...]]:
        gone = set(self.skipped)
        return {
            role: tuple(item for item in items if item.id not in gone)
            for role, items in self.inner.items().items()
        }


def open_usable(
    open_it: Callable[[Mapping[str, Any]], Any], name: str, data: Mapping[str, Any]
) -> Dataset:
    """A data set without what cannot be used of it; `open_it` opens it by what is said of it."""
    from fewshot_bench.images.decode import unreadable

    whole: Dataset = open_it({**data, SKIPPED: {name: []}})
    found = unreadable(whole, [item for _, item in all_items(whole)]).bad
    lost = lost_in_training(whole, found)
    if lost:
        raise DataMissingError(
            f"{name}: {lost} are damaged or missing: mend them, or remove the "
            "class (its folder, or its lines in the manifest)"
        )
    bad = list(found)
    dataset: Dataset = open_it({**data, SKIPPED: {name: bad}} if bad else data)
    return dataset


def with_skipped(
    data: Mapping[str, Any], datasets: Mapping[str, Dataset], *names: str
) -> Mapping[str, Any]:
    """What is said of these data sets, and which of their images are left out."""
    found = {name: dataset for name in names if (dataset := datasets.get(name)) is not None}
    skipped = {n: list(d.skipped) for n, d in found.items() if isinstance(d, Without)}
    return {**data, SKIPPED: skipped} if skipped else data


def lost_in_training(dataset: Dataset, bad: Mapping[str, str]) -> str:
    """`all 10 images of class 'cow'`: the classes that would have no train images left."""
    whole = dict(lost_classes([item for _, item in all_items(dataset)], bad))
    lost = [
        f"all {whole[title]:,} images of class '{title}'"
        if title in whole
        else f"all {count:,} train images of class '{title}'"
        for title, count in lost_classes(dataset.items().get("train", ()), bad)
    ]
    return ", ".join(shortened(lost, FEW))


def lost_classes(items: Sequence[Item], bad: Mapping[str, str]) -> list[tuple[str, int]]:
    """Classes of which no image can be used, with the number of their images."""
    total = Counter(item.classname for item in items)
    lost = Counter(item.classname for item in items if item.id in bad)
    return [(name, count) for name, count in total.items() if lost[name] == count]
