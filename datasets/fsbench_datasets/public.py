"""Opens the public sets; `fsbench_datasets.public:NAME` is the opener of a catalog name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fewshot_bench import Dataset, DatasetCard, Item, Recipe, Stamp, Stamped, data_roots
from fsbench_datasets.catalog import PUBLIC_SETS, public_set


class FileBacked(Dataset, Stamped, Protocol):
    """A data set whose images are files, or members of files."""


@dataclass(frozen=True)
class PublicDataset:
    """A set of the catalog: its images by layout, and the recipe for fetching them."""

    name: str
    layout: FileBacked

    def card(self) -> DatasetCard:
        """Known facts; class names, counts and revision as well where the lists are there."""
        return self.layout.card()

    def items(self) -> Mapping[str, tuple[Item, ...]]:
        """The pools; DataMissingError says what is absent and how to get it."""
        return self.layout.items()

    def read(self, item: Item) -> bytes:
        """The encoded image; OSError when it cannot be read."""
        return self.layout.read(item)

    def stamp(self, item: Item) -> Stamp | None:
        """The stamp of one image; None when it is missing."""
        return self.layout.stamp(item)

    def recipe(self) -> Recipe:
        """The files to fetch and where they go."""
        from fsbench_datasets.recipes import recipe_of

        return recipe_of(self.name)


def open_public(name: str) -> PublicDataset:
    """A set of the catalog, searched for below every data root."""
    entry, roots = public_set(name), data_roots()
    layout: FileBacked
    if entry.layout == "split":
        from fsbench_datasets.coop_layout import open_split_set

        layout = open_split_set(entry, roots)
    elif entry.layout == "aircraft":
        from fsbench_datasets.aircraft import open_aircraft

        layout = open_aircraft(entry, roots)
    elif entry.layout == "imagenet":
        from fsbench_datasets.imagenet import open_imagenet

        layout = open_imagenet(entry, roots)
    else:
        from fsbench_datasets.imagenet_ood import open_variant

        layout = open_variant(entry, roots)
    return PublicDataset(name, layout)


def __getattr__(name: str) -> Callable[[], PublicDataset]:
    """The opener of a catalog name."""
    if name not in {entry.name for entry in PUBLIC_SETS}:
        raise AttributeError(name)
    return partial(open_public, name)
