"""Finds pictures of a data set that are copies of each other, and pictures under two labels.

`find_copies` is the entry point. Copies have the same bytes, or look alike (`lookalikes.py`: other
size, compression, crop, mirrored); what copies a copy is of the same group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.api.dataset import MOST_COMPARED
from fewshot_bench.images.decode import examine
from fewshot_bench.images.digests import DatasetDigests, Known
from fewshot_bench.images.fingerprints import SIDE, Bytes, Fingerprints, Indices, fingerprints
from fewshot_bench.images.lookalikes import CLOSE, COPY, pairs_alike, share_alike
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.small_cache import keep_list, kept_list

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset
    from fewshot_bench.api.items import Item

# Pictures whose fingerprints are computed at a time.
CHUNK = 256
# Most different pictures of a group.
MOST_MEMBERS = 20


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
        order = np.argsort(self.groups, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self.groups[order])) + 1)
        return tuple(tuple(part.tolist()) for part in parts if len(part) > 1)

    @property
    def contradictions(self) -> tuple[tuple[int, ...], ...]:
        """The groups with more than one label, as ascending indices."""
        labels = self.labels
        return tuple(group for group in self.members if len({*labels[list(group)].tolist()}) > 1)


def find_copies(dataset: Dataset, items: Sequence[Item]) -> Copies:
    """Group the pictures of some items; those that cannot be read are alone.

    >>> find_copies(dataset, dataset.items()["train"]).copied
    """
    return group_copies(items, look_closely(dataset, items))


def look_closely(dataset: Dataset, items: Sequence[Item]) -> list[Known | str]:
    """The facts of each item's file, or why it cannot be used; cached for unchanged files.

    Of more than `MOST_COMPARED` files, only whether they decode, and their digests.
    """
    digests = DatasetDigests(dataset)
    current().step(f"looking at images of {dataset.card().name}", len(items))
    facts = examine(dataset, digests, items, "look" if len(items) <= MOST_COMPARED else "check")
    digests.save()
    return facts


def group_copies(items: Sequence[Item], facts: Sequence[Known | str]) -> Copies:
    """Group pictures by the facts of their files; groups of the same pictures are cached."""
    labels = np.array([item.label for item in items], dtype=np.int64)
    known = {one.sha: one for one in facts if isinstance(one, Known)}
    # In an order of their own, so that groups depend on the pictures alone.
    shas = sorted(known)
    groups, unsearched = [*range(len(shas))], f"over {MOST_COMPARED:,}: only equal files are found"
    if len(items) <= MOST_COMPARED:
        rules = f"{COPY} {CLOSE} {decoder_versions()}"
        key = f"copies {rules} {hashlib.sha256(b''.join(shas)).hexdigest()}"
        kept = kept_list(key)
        if kept is None:
            kept = json.dumps(_group([known[sha] for sha in shas])).encode()
            keep_list(key, kept)
        groups, unsearched = json.loads(kept)
    group_of = dict(zip(shas, groups, strict=True))
    # A file that cannot be used is a group of its own.
    ids = [group_of[f.sha] if isinstance(f, Known) else -at for at, f in enumerate(facts, 1)]
    _, lowest, inverse = np.unique(ids, return_index=True, return_inverse=True)
    exact = len(items) - len(shas) - sum(isinstance(one, str) for one in facts)
    return Copies(lowest[inverse], labels, exact, unsearched)


def _group(facts: Sequence[Known]) -> tuple[list[int], str]:
    """The group of each of n different pictures, and why some were not searched."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    prints, compared, thumbnails = prints_of(facts)
    groups, left, found = np.arange(len(facts)), np.arange(len(prints)), "equal files"
    alike = 0
    for least in (COPY, CLOSE):
        # Of pictures that look alike throughout, pairs would be too many, and say nothing.
        if len(left) * share_alike(prints, left[::2], left[1::2], least) <= MOST_MEMBERS:
            pairs = pairs_alike(prints[left], thumbnails[left], least)
            graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(left), len(left)))
            _, part = connected_components(graph, directed=False)
            _, lowest, members = np.unique(part, return_index=True, return_counts=True)
            edges = np.bincount(part[pairs[:, 0]], minlength=len(members))
            # A group is of few pictures, half of whose pairs at least are copies.
            group = (members <= MOST_MEMBERS) & (4 * edges >= members * (members - 1))
            kept = group[part]
            groups[compared[left[kept]]] = compared[left[lowest[part[kept]]]]
            left, found = left[~kept], "the closest" if least is CLOSE else found
        alike = alike or len(left)
    text = f"{alike:,} look alike throughout, of which only {found} are found"
    return groups.tolist(), text if alike else ""


def prints_of(facts: Sequence[Known | str]) -> tuple[Fingerprints, Indices, Bytes]:
    """Fingerprints of the pictures that can be compared, the index and the thumbnail of each."""
    known = ((at, one.seen) for at, one in enumerate(facts) if isinstance(one, Known))
    seen = [(at, one) for at, one in known if one and one.thumbnail]
    prints, sizes = Fingerprints.empty(len(seen)), np.array([one.size for _, one in seen])
    colors = np.frombuffer(b"".join(one.thumbnail for _, one in seen), np.uint8)
    thumbnails = colors.reshape(-1, SIDE, SIDE, 3)
    for start in range(0, len(seen), CHUNK):
        some = slice(start, start + CHUNK)
        prints[some] = fingerprints(thumbnails[some], sizes[some])
    return prints, np.array([at for at, _ in seen], np.int64), thumbnails
