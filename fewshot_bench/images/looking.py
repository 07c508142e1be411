"""Looks at every picture of a data set once, and says what a person should know of them.

`look_at` is the entry point. `scan` reads all files anew, in little memory, for `data verify`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import CHUNK, Copies, group_copies, look_closely, prints_of
from fewshot_bench.images.decode import examine
from fewshot_bench.images.digests import DatasetDigests, Known, Seen
from fewshot_bench.images.fingerprints import Fingerprints
from fewshot_bench.utils.text import counted, shortened

# Shorter sides, in pixels, are called very small; examples of a finding that are shown.
SMALL, SHOWN = 32, 3

Listed = Sequence[tuple[str, Item]]


@dataclass(frozen=True, eq=False)
class Looked:
    """Pictures of n items, and the facts of their files or in one line why one cannot be used."""

    items: Sequence[Item]
    facts: Sequence[Known | str]

    @cached_property
    def problems(self) -> dict[int, str]:
        """Index to the reason why a file cannot be used."""
        return {at: one for at, one in enumerate(self.facts) if isinstance(one, str)}

    @cached_property
    def seen(self) -> dict[int, Seen]:
        """Index to what was seen; empty for more pictures than are looked at closely."""
        known = ((at, one) for at, one in enumerate(self.facts) if isinstance(one, Known))
        return {at: one.seen for at, one in known if one.seen}

    @property
    def turned(self) -> int:
        """Number of pictures that EXIF turns upright."""
        return sum(isinstance(one, Known) and one.turned for one in self.facts)


@dataclass(frozen=True, eq=False)
class Looks(Looked):
    """Pictures, and which of them are copies."""

    copies: Copies

    @cached_property
    def counts(self) -> dict[str, int]:
        """Pictures of each class, in the order of the labels."""
        ordered = sorted(self.items, key=lambda item: item.label)
        return dict(Counter(item.classname for item in ordered))

    def lines(self) -> list[str]:
        """At most six short lines on the pictures, for a person."""
        counts, copies = self.counts, self.copies
        if not counts:
            return []
        least, most = (f(counts, key=lambda name: counts[name]) for f in (min, max))
        spread = f"{counts[least]:,} of '{least}' to {counts[most]:,} of '{most}'"
        spread = spread if counts[least] < counts[most] else f"{counts[most]:,} of each"
        lines = [f"{counted(len(self.items), 'picture')} of {len(counts):,} classes: {spread}"]
        if copies.copied or copies.unsearched:
            exact = f" ({copies.exact:,} byte for byte)" if copies.exact else ""
            found = f"{counted(copies.copied, 'copy', 'copies')} of other pictures{exact}"
            lines.append("; ".join(filter(None, (found, copies.unsearched))))
        if clashes := copies.contradictions:
            named = self._name(clashes, copies.labels.tolist())
            lines.append(f"{counted(len(clashes), 'picture')} likely under two labels: {named}")
        if self.turned:
            turned = counted(self.turned, "picture")
            lines.append(f"{turned} turned upright by EXIF, unless --exif ignore")
        if self.problems:
            said = [f"{self.items[at].id} ({reason})" for at, reason in self.problems.items()]
            lines.append(f"{counted(len(said), 'picture')} cannot be used: {_few(said)}")
        if small := [self.items[at].id for at, one in self.seen.items() if min(one.size) < SMALL]:
            few = counted(len(small), "picture")
            lines.append(f"{few} below {SMALL} pixels on a side: {_few(small)}")
        return lines

    def across(self, roles: Sequence[str]) -> list[str]:
        """Lines on copies in several pools. roles: the pool of each picture."""
        both, clashes = self.copies.members, self.copies.contradictions
        both = tuple(group for group in both if len({roles[at] for at in group}) > 1)
        tested = sum("test" in {roles[at] for at in group} for group in clashes)
        lines = []
        if both:
            many = counted(len(both), "picture")
            lines.append(f"{many} in several pools, as copies: {self._name(both, roles)}")
        if tested:
            many = counted(tested, "picture")
            lines.append(f"{many} likely under two labels in the test images")
        return lines

    def _name(self, groups: Sequence[Sequence[int]], kinds: Sequence[int | str]) -> str:
        """The first picture of each kind in some groups, by their ids."""
        firsts = [sorted({kinds[at]: at for at in reversed(group)}.values()) for group in groups]
        return _few([" = ".join(self.items[at].id for at in some[:SHOWN]) for some in firsts])


def _few(said: Sequence[str]) -> str:
    return "; ".join(shortened(said, SHOWN))


def look_at(dataset: Dataset, items: Sequence[Item]) -> Looks:
    """Look at the pictures of some items; what is seen is cached for unchanged files."""
    facts = look_closely(dataset, items)
    return Looks(items, facts, group_copies(items, facts))


@dataclass(frozen=True, eq=False)
class Scan(Looked):
    """All images of a data set, in the order of `listed`, without their thumbnails.

    prints: fingerprints of all; compared: (n,) whether one is usable.
    """

    listed: Listed
    prints: Fingerprints
    compared: np.ndarray[tuple[int], np.dtype[np.bool_]]


def scan(dataset: Dataset, listed: Listed, jobs: int) -> Scan:
    """Read and decode all images with `jobs` threads.

    Digests of images that decode are cached for later runs, if the cache is writable.
    """
    items, facts = [item for _, item in listed], list[Known | str]()
    digests = DatasetDigests(dataset)
    prints, compared = Fingerprints.empty(len(items)), np.zeros(len(items), np.bool_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for start in range(0, len(items), CHUNK):
            looks = examine(dataset, digests, items[start : start + CHUNK], "anew", jobs)
            some, places, _ = prints_of(looks)
            prints[start + places], compared[start + places] = some, True
            for one in looks:
                if isinstance(one, Known) and one.seen:
                    one = one._replace(seen=one.seen._replace(thumbnail=b""))
                facts.append(one)
    digests.save()
    return Scan(items, facts, listed, prints, compared)
