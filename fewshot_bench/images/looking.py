"""Reads and decodes every image of a data set once, and finds those that are in two pools.

`scan` is the entry point; `same_bytes` compares its digests, and `lookalikes.nearest` its
fingerprints.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.images.decode import (
    DatasetDigests,
    Known,
    dataset_digests,
    decode_or_explain,
    deep_problem,
    in_a_line,
    is_turned,
    unread,
)
from fewshot_bench.images.fingerprints import (
    Bytes,
    Fingerprints,
    Indices,
    fingerprints,
    thumbnail,
)

CHUNK = 256
# Multi-picture JPEG: the first picture is an ordinary JPEG.
SAME_FORMAT = {"MPO": "JPEG"}

Listed = Sequence[tuple[str, Item]]


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


@dataclass(frozen=True)
class Look:
    """Facts of one image file; `thumbnail` is None if too small or too flat to compare."""

    digest: bytes
    format: str
    mode: str
    size: tuple[int, int]
    turned: bool
    thumbnail: Bytes | None


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

    def add(self, index: int, look: Look | str) -> None:
        """Add one image, or the reason why it cannot be used."""
        if isinstance(look, str):
            self.problems[index] = look
            return
        self.decoded[index] = True
        self.digests[index] = np.frombuffer(look.digest, dtype=np.uint8)
        self.compared[index] = look.thumbnail is not None
        self.formats[look.format] += 1
        self.modes[look.mode] += 1
        self.turned += look.turned
        if min(look.size) <= 1:
            self.tiny.append(index)
        self.smallest = min(self.smallest or look.size, look.size, key=math.prod)
        self.largest = max(self.largest or look.size, look.size, key=math.prod)
        extension = PurePosixPath(self.listed[index][1].id).suffix.lower()
        form = Image.registered_extensions().get(extension, "")
        named = SAME_FORMAT.get(form, form)
        if named and named != look.format:
            self.misnamed[extension, look.format] += 1

    def add_chunk(self, start: int, looks: Sequence[Look | str]) -> None:
        """Add consecutive images, and compute their fingerprints."""
        for offset, look in enumerate(looks):
            self.add(start + offset, look)
        seen = [
            (start + offset, look.thumbnail, look.size)
            for offset, look in enumerate(looks)
            if isinstance(look, Look) and look.thumbnail is not None
        ]
        if seen:
            places, thumbnails, sizes = zip(*seen, strict=True)
            self.prints[np.array(places)] = fingerprints(np.stack(thumbnails), np.array(sizes))


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
    with warnings.catch_warnings(), ThreadPoolExecutor(jobs) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, count, CHUNK):
            chunk = [item for _, item in listed[start : start + CHUNK]]
            result.add_chunk(start, list(pool.map(partial(_look, dataset, digests), chunk)))
            advance(len(chunk))
    digests.save()
    return result


def _look(dataset: Dataset, digests: DatasetDigests, item: Item) -> Look | str:
    """Facts of an item's file, or one line on why it cannot be used."""
    taken = time.time()
    try:
        stamp = digests.stamp(item)
        content = dataset.read(item)
    except Exception as error:
        return unread(error)
    image = decode_or_explain(content)
    if isinstance(image, str):
        return f"damaged: {image}"
    form = SAME_FORMAT.get(image.format or "", image.format or "unknown")
    try:
        if problem := deep_problem(image):
            return problem
        digest, turned = hashlib.sha256(content).digest(), is_turned(image)
        look = Look(digest, form, image.mode, image.size, turned, thumbnail(image))
    except Exception as error:
        return f"damaged: {in_a_line(error)}"
    facts = Known(digest, True, turned)
    if digests.get(item, stamp) != facts:
        digests.put(item, stamp, facts, taken)
    return look
