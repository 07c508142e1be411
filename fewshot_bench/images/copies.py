"""Finds pictures of a data set that are copies of each other, and pictures under two labels.

`find_copies` is the entry point. Copies have the same bytes, or look alike (`lookalikes.py`: other
size, compression, crop, mirrored); what copies a copy is of the same group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.images.decode import MOST_SEEN, How, examine
from fewshot_bench.images.digests import Known, dataset_digests
from fewshot_bench.images.fingerprints import SIDE, Bytes, Fingerprints, Indices, fingerprints
from fewshot_bench.images.lookalikes import CLOSE, COPY, pairs_alike, share_alike
from fewshot_bench.utils.cache_dir import DIGESTS
from fewshot_bench.utils.image_formats import decoder_versions
from fewshot_bench.utils.prefetch import THREADS
from fewshot_bench.utils.progress import current
from fewshot_bench.utils.small_cache import change, recall

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


def find_copies(dataset: Dataset, items: Sequence[Item], jobs: int = THREADS) -> Copies:
    """Group the pictures of some items; those that cannot be read are alone.

    >>> find_copies(dataset, dataset.items()["train"]).copied
    """
    return group_copies(items, look_closely(dataset, items, jobs), jobs, dataset.card().name)


def look_closely(dataset: Dataset, items: Sequence[Item], jobs: int = THREADS) -> list[Known | str]:
    """The facts of each item's file, or why it cannot be used; cached for unchanged files.

    Of more than `MOST_SEEN` files, only whether they decode, and their digests.
    """
    digests, work = dataset_digests(dataset), current()
    work.step(f"looking at images of {dataset.card().name}", len(items))
    how: How = "look" if len(items) <= MOST_SEEN else "check"
    facts = examine(dataset, digests, items, how, jobs, work.advance)
    digests.save()
    return facts


def group_copies(
    items: Sequence[Item], facts: Sequence[Known | str], jobs: int = THREADS, title: str = ""
) -> Copies:
    """Group pictures by the facts of their files; groups are cached by digests under a `title`."""
    labels = np.array([item.label for item in items], dtype=np.int64)
    known = {one.sha: one for one in facts if isinstance(one, Known)}
    shas = sorted(known)
    groups, unsearched = np.arange(len(shas)), f"over {MOST_SEEN:,}: only equal files are found"
    if len(items) <= MOST_SEEN:
        # In an order of their own, so that groups depend on the pictures alone.
        rules = f"{COPY} {CLOSE} {decoder_versions()}"
        key = f"copies {rules} {hashlib.sha256(b''.join(shas)).hexdigest()}"
        kept = recall(DIGESTS, key)
        if kept is None:
            groups, unsearched = _group([known[sha] for sha in shas], jobs)
            kept = groups.astype("<u4").tobytes() + unsearched.encode()
            with suppress(OSError, RuntimeError):
                change(DIGESTS, key, lambda _: kept, title)
        groups = np.frombuffer(kept, "<u4", len(shas))
        unsearched = kept[4 * len(shas) :].decode()
    group_of = dict(zip(shas, groups.tolist(), strict=True))
    # A file that cannot be used is a group of its own.
    ids = [group_of[f.sha] if isinstance(f, Known) else -at for at, f in enumerate(facts, 1)]
    _, lowest, inverse = np.unique(ids, return_index=True, return_inverse=True)
    exact = len(items) - len(shas) - sum(isinstance(one, str) for one in facts)
    return Copies(lowest[inverse], labels, exact, unsearched)


def _group(facts: Sequence[Known], jobs: int) -> tuple[Indices, str]:
    """The group of each of n different pictures, and why some were not searched."""
    prints, compared, thumbnails = prints_of(facts)
    groups, everything = np.arange(len(facts)), np.arange(len(prints))
    halves, found = (everything[::2], everything[1::2]), "the closest"
    # Of pictures that look alike throughout, pairs would be too many, and say nothing.
    fitting = [
        one
        for one in (COPY, CLOSE)
        if len(prints) * share_alike(prints, *halves, one) <= MOST_MEMBERS
    ]
    split = np.full(len(prints), COPY not in fitting)
    pairs, close = np.zeros((0, 2), np.int64), np.zeros(0, np.bool_)
    if fitting:
        pairs, close = pairs_alike(prints, thumbnails, jobs, fitting[0])
    else:
        found = "equal files"
    for members, inside in _parts(pairs):
        if _is_group(members, inside):
            groups[compared[members]] = compared[members[0]]
            continue
        split[members] = True
        for some, edges in _parts(pairs[inside[close[inside]]]):
            if _is_group(some, edges):
                groups[compared[some]] = compared[some[0]]
    alike = f"{split.sum():,} look alike throughout, of which only {found} are found"
    return groups, alike if split.any() else ""


def _parts(pairs: Indices) -> Iterator[tuple[Indices, Indices]]:
    """The members of each connected part of a graph, ascending, and the indices of its edges."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return
    nodes, ends = np.unique(pairs, return_inverse=True)
    first, second = ends.reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(nodes), len(nodes)))
    count, part = connected_components(graph, directed=False)
    sides = []
    for of in (part, part[first]):
        order = np.argsort(of, kind="stable")
        sides.append(np.split(order, np.cumsum(np.bincount(of, minlength=count))[:-1]))
    for members, edges in zip(*sides, strict=True):
        yield nodes[members], edges


def _is_group(members: Indices, edges: Indices) -> bool:
    """True for few pictures, half of whose pairs at least are copies."""
    count = len(members)
    return count <= MOST_MEMBERS and 4 * len(edges) >= count * (count - 1)


def prints_of(facts: Sequence[Known | str]) -> tuple[Fingerprints, Indices, Bytes]:
    """Fingerprints of the pictures that can be compared, the index and the thumbnail of each."""
    known = ((at, one.seen) for at, one in enumerate(facts) if isinstance(one, Known) and one.seen)
    seen = [(at, one.thumbnail, one.size) for at, one in known if one.thumbnail is not None]
    prints = Fingerprints.empty(len(seen))
    thumbnails = np.array([gray for _, gray, _ in seen]).reshape(-1, SIDE, SIDE, 3)
    sizes = np.array([size for _, _, size in seen])
    for start in range(0, len(seen), CHUNK):
        some = slice(start, start + CHUNK)
        prints[some] = fingerprints(thumbnails[some], sizes[some])
    return prints, np.array([at for at, _, _ in seen], np.int64), thumbnails
