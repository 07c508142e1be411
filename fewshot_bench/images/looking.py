"""Looks at every picture of a data set once, and says what a person should know of them.

`look_at` is the entry point. `scan` reads all files anew, in little memory, for `data verify`.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.images.copies import CHUNK, Copies, group_copies, look_closely, prints_of
from fewshot_bench.images.decode import SAME_FORMAT, examine
from fewshot_bench.images.digests import Known, Seen, dataset_digests
from fewshot_bench.images.fingerprints import Bytes, Fingerprints
from fewshot_bench.utils.text import counted, shortened

# Shorter sides, in pixels, are called very small; examples of a finding that are shown.
SMALL, SHOWN = 32, 3

Listed = Sequence[tuple[str, Item]]


@dataclass(frozen=True, eq=False)
class Looks:
    """Pictures of n items, and what was seen in them.

    facts: (n) facts of a file, or in one line why it cannot be used.
    """

    items: Sequence[Item]
    facts: Sequence[Known | str]
    copies: Copies

    @cached_property
    def problems(self) -> dict[int, str]:
        """Index to the reason why a file cannot be used."""
        return {at: one for at, one in enumerate(self.facts) if isinstance(one, str)}

    @cached_property
    def seen(self) -> dict[int, Seen]:
        """Index to what was seen; empty for more pictures than are looked at closely."""
        known = ((at, one) for at, one in enumerate(self.facts) if isinstance(one, Known))
        return {at: one.seen for at, one in known if one.seen}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Pictures of each class, in the order of the labels."""
        ordered = sorted(self.items, key=lambda item: item.label)
        return dict(Counter(item.classname for item in ordered))

    @property
    def turned(self) -> int:
        """Number of pictures that EXIF turns upright."""
        return sum(isinstance(one, Known) and one.turned for one in self.facts)

    @property
    def small(self) -> list[int]:
        """Pictures with a side below `SMALL` pixels."""
        return [at for at, one in self.seen.items() if min(one.size) < SMALL]

    def lines(self) -> list[str]:
        """What a person should know of the pictures: at most six short lines."""
        counts, copies = self.counts, self.copies
        least, most = (f(counts, key=lambda name: counts[name]) for f in (min, max))
        spread = f"{counts[least]:,} of '{least}' to {counts[most]:,} of '{most}'"
        spread = spread if counts[least] < counts[most] else f"{counts[most]:,} of each"
        lines = [f"{_many(len(self.items))} of {len(counts):,} classes: {spread}"]
        if copies.copied:
            exact = f" ({copies.exact:,} byte for byte)" if copies.exact else ""
            lines.append(f"{counted(copies.copied, 'copy', 'copies')} of other pictures{exact}")
        elif copies.unsearched:
            lines.append(f"only equal files are searched for copies: {copies.unsearched}")
        if clashes := copies.contradictions:
            said = [" = ".join(self.items[at].id for at in group[:SHOWN]) for group in clashes]
            lines.append(f"{_many(len(clashes))} under two labels: {_few(said)}")
        if self.turned:
            lines.append(f"{_many(self.turned)} turned upright by EXIF")
        if self.problems:
            said = [f"{self.items[at].id} ({reason})" for at, reason in self.problems.items()]
            lines.append(f"{_many(len(said))} cannot be used: {_few(said)}")
        if self.small:
            said = [self.items[at].id for at in self.small]
            lines.append(f"{_many(len(said))} below {SMALL} pixels on a side: {_few(said)}")
        return lines


def _many(count: int) -> str:
    return f"{count:,} picture{'s' * (count != 1)}"


def _few(said: Sequence[str]) -> str:
    return "; ".join(shortened(said, SHOWN))


def look_at(dataset: Dataset, items: Sequence[Item], jobs: int = 1) -> Looks:
    """Look at the pictures of some items; what is seen is cached for unchanged files."""
    facts = look_closely(dataset, items, jobs)
    return Looks(items, facts, group_copies(items, facts, jobs))


@dataclass
class Scan:
    """All images of a data set, in the order of `listed`.

    digests: (n, 32) SHA-256 of each file; prints: fingerprints of all; decoded: (n,) whether an
    image opened; compared: (n,) whether its fingerprint is usable.
    problems: index to the reason why a file cannot be used.
    """

    listed: Listed
    digests: Bytes
    prints: Fingerprints
    decoded: np.ndarray[tuple[int], np.dtype[np.bool_]]
    compared: np.ndarray[tuple[int], np.dtype[np.bool_]]
    problems: dict[int, str] = field(default_factory=dict)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    misnamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    turned: int = 0
    tiny: list[int] = field(default_factory=list)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    def add(self, index: int, look: Known | str) -> None:
        """Add one image, or the reason why it cannot be used."""
        if isinstance(look, str) or look.seen is None:
            self.problems[index] = str(look)
            return
        seen = look.seen
        self.decoded[index] = True
        self.digests[index] = np.frombuffer(look.sha, dtype=np.uint8)
        self.formats[seen.form] += 1
        self.modes[seen.mode] += 1
        self.turned += look.turned
        if min(seen.size) <= 1:
            self.tiny.append(index)
        self.smallest = min(self.smallest or seen.size, seen.size, key=math.prod)
        self.largest = max(self.largest or seen.size, seen.size, key=math.prod)
        extension = PurePosixPath(self.listed[index][1].id).suffix.lower()
        form = Image.registered_extensions().get(extension, "")
        named = SAME_FORMAT.get(form, form)
        if named and named != seen.form:
            self.misnamed[extension, seen.form] += 1

    def add_chunk(self, start: int, looks: Sequence[Known | str]) -> None:
        """Add consecutive images, and compute their fingerprints."""
        for offset, look in enumerate(looks):
            self.add(start + offset, look)
        prints, places = prints_of(looks)
        self.prints[start + places], self.compared[start + places] = prints, True


def scan(dataset: Dataset, listed: Listed, jobs: int, advance: Callable[[int], None]) -> Scan:
    """Read and decode all images with `jobs` threads; `advance` gets the size of each done chunk.

    Digests of images that decode are cached for later runs, if the cache is writable.
    """
    Image.init()
    count = len(listed)
    digests = dataset_digests(dataset)
    result = Scan(
        listed,
        np.zeros((count, 32), np.uint8),
        Fingerprints.empty(count),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for start in range(0, count, CHUNK):
            chunk = [item for _, item in listed[start : start + CHUNK]]
            result.add_chunk(start, examine(dataset, digests, chunk, "anew", jobs))
            advance(len(chunk))
    digests.save()
    return result
