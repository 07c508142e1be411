"""Finds pictures of a data set that are copies of each other, and pictures under two labels.

`find_copies` is the entry point. Copies have the same bytes, or look alike (`lookalikes.py`: other
size, compression, crop, mirrored); what copies a copy is of the same group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.images.lookalikes import pairs_alike
from fewshot_bench.images.looking import same_bytes, scan

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item
    from fewshot_bench.images.fingerprints import Indices


@dataclass(frozen=True, eq=False)
class Copies:
    """Groups of copies among n pictures.

    groups: (n,) the lowest index of the group that each picture is in, its own if it has no copy;
    labels: (n,) class indices; exact: number of pictures whose bytes an earlier picture has.
    """

    groups: Indices
    labels: Indices
    exact: int = 0

    @property
    def copied(self) -> int:
        """Number of pictures that copy an earlier one."""
        return int((self.groups != np.arange(len(self.groups))).sum())

    @cached_property
    def contradictions(self) -> tuple[tuple[int, ...], ...]:
        """The groups with more than one label, as ascending indices."""
        found = []
        for first in np.unique(self.groups[self.groups != np.arange(len(self.groups))]):
            members = np.flatnonzero(self.groups == first)
            if len(set(self.labels[members].tolist())) > 1:
                found.append(tuple(members.tolist()))
        return tuple(found)


def find_copies(dataset: Dataset, items: Sequence[Item], jobs: int = 1) -> Copies:
    """Group the pictures of some items; those that cannot be read are alone.

    >>> find_copies(dataset, dataset.items()["train"]).copied
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.array([item.label for item in items], dtype=np.int64)
    looks = scan(dataset, [("", item) for item in items], jobs, lambda done: None)
    usable = np.flatnonzero(looks.decoded)
    same = [usable[group] for group in same_bytes(looks.digests[usable])]
    pairs = [np.stack([np.full(len(group) - 1, group[0]), group[1:]], axis=1) for group in same]
    alike = pairs_alike(looks.prints, np.flatnonzero(looks.compared), jobs)
    first, second = np.concatenate([*pairs, alike]).T
    count = len(items)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    _, parts = connected_components(graph, directed=False)
    _, lowest, group = np.unique(parts, return_index=True, return_inverse=True)
    return Copies(lowest[group], labels, sum(len(group) - 1 for group in same))
