"""Finds pictures of a data set that are copies of each other, and pictures under two labels.

`find_copies` is the entry point. Copies have the same bytes, or look alike (`lookalikes.py`: other
size, compression, crop, mirrored); what copies a copy is of the same group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.images.decode import MOST_SEEN, How, examine
from fewshot_bench.images.digests import Known, dataset_digests
from fewshot_bench.images.fingerprints import Bytes, Fingerprints, Indices, fingerprints
from fewshot_bench.images.lookalikes import pairs_alike
from fewshot_bench.utils.progress import current

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item

# Pictures whose fingerprints are computed at a time.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Copies:
    """Groups of copies among n pictures.

    groups: (n,) the lowest index of the group that each picture is in, its own if it has no copy;
    labels: (n,) class indices; exact: number of pictures whose bytes an earlier picture has;
    unsearched: why no other copies were searched, if they were not.
    """

    groups: Indices
    labels: Indices
    exact: int = 0
    unsearched: str = ""

    @property
    def copied(self) -> int:
        """Number of pictures that copy an earlier one."""
        return int((self.groups != np.arange(len(self.groups))).sum())

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The groups of two or more pictures, as ascending indices."""
        copies = np.flatnonzero(self.groups != np.arange(len(self.groups)))
        found: dict[int, list[int]] = {}
        for place in copies.tolist():
            first = int(self.groups[place])
            found.setdefault(first, [first]).append(place)
        return tuple(tuple(found[first]) for first in sorted(found))

    @property
    def contradictions(self) -> tuple[tuple[int, ...], ...]:
        """The groups with more than one label, as ascending indices."""
        labels = self.labels
        return tuple(group for group in self.members if len({*labels[list(group)].tolist()}) > 1)


def find_copies(dataset: Dataset, items: Sequence[Item], jobs: int = 1) -> Copies:
    """Group the pictures of some items; those that cannot be read are alone.

    >>> find_copies(dataset, dataset.items()["train"]).copied
    """
    return group_copies(items, look_closely(dataset, items, jobs), jobs)


def look_closely(dataset: Dataset, items: Sequence[Item], jobs: int = 1) -> list[Known | str]:
    """The facts of each item's file, or why it cannot be used; cached for unchanged files.

    Of more than `MOST_SEEN` files, only whether they decode, and their digests.
    """
    digests, work = dataset_digests(dataset), current()
    work.step(f"looking at images of {dataset.card().name}", len(items))
    how: How = "look" if len(items) <= MOST_SEEN else "check"
    facts = examine(dataset, digests, items, how, jobs, work.advance)
    digests.save()
    return facts


def group_copies(items: Sequence[Item], facts: Sequence[Known | str], jobs: int = 1) -> Copies:
    """Group pictures by the facts of their files."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.array([item.label for item in items], dtype=np.int64)
    usable = np.array(
        [at for at, one in enumerate(facts) if isinstance(one, Known)], dtype=np.int64
    )
    shas = b"".join(one.sha for one in facts if isinstance(one, Known))
    digests = np.frombuffer(shas, np.uint8).reshape(-1, 32)
    same = [usable[group] for group in same_bytes(digests)]
    pairs = [np.stack([np.full(len(group) - 1, group[0]), group[1:]], axis=1) for group in same]
    prints, compared = prints_of(facts)
    alike = compared[pairs_alike(prints, np.arange(len(prints)), jobs)]
    first, second = np.concatenate([*pairs, alike]).T
    count = len(items)
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    _, parts = connected_components(graph, directed=False)
    _, lowest, group = np.unique(parts, return_index=True, return_inverse=True)
    unsearched = "" if count <= MOST_SEEN else f"there are more than {MOST_SEEN:,}"
    return Copies(lowest[group], labels, sum(len(group) - 1 for group in same), unsearched)


def same_bytes(digests: Bytes) -> Iterator[Indices]:
    """Groups of two or more equal rows of (n, 32) digests, as ascending indices."""
    if not len(digests):
        return
    order = np.lexsort(digests.T)
    ordered = digests[order]
    changes = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    edges = np.concatenate([[0], changes, [len(order)]])
    for edge in np.flatnonzero(np.diff(edges) > 1):
        yield np.sort(order[edges[edge] : edges[edge + 1]])


def prints_of(facts: Sequence[Known | str]) -> tuple[Fingerprints, Indices]:
    """Fingerprints of the pictures that can be compared, and the index of each."""
    known = ((at, one.seen) for at, one in enumerate(facts) if isinstance(one, Known) and one.seen)
    seen = [(at, one.thumbnail, one.size) for at, one in known if one.thumbnail is not None]
    if not seen:
        return Fingerprints.empty(0), np.zeros(0, np.int64)
    places, thumbnails, sizes = zip(*seen, strict=True)
    parts = np.array_split(np.arange(len(seen)), -(-len(seen) // CHUNK))
    prints = Fingerprints.empty(len(seen))
    for part in parts:
        some = slice(part[0], part[-1] + 1)
        prints[some] = fingerprints(np.stack(thumbnails[some]), np.array(sizes[some]))
    return prints, np.array(places)
