"""Reads and decodes every image of a data set once, and finds those that are in two pools.

`scan` is the entry; `nearest` and `same_bytes` compare what it keeps: digests, and thumbnails of
17 x 17 gray values. Two thumbnails look alike when their correlation is high and few of the 512
signs of their horizontal and vertical gradients differ.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from fewshot_bench.api.dataset import Dataset
from fewshot_bench.api.items import Item
from fewshot_bench.images.decode import decoded, deep_problem, in_a_line, is_turned
from fewshot_bench.images.digests import DatasetDigests, Known, dataset_digests, now

if TYPE_CHECKING:
    from PIL import Image


Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int64]]

SIDE = 17
SIGNS = 2 * (SIDE - 1) ** 2
# Both limits were chosen on 700,000 pairs of real photographs; docs/data-verify.md has the numbers.
MAX_DISTANCE = 64
MIN_CORRELATION = 0.95
# Gray levels: a smaller step is no gradient, and a thumbnail with less contrast is not compared.
STEP = 1
MIN_CONTRAST = 2.0
QUERY_BLOCK, BASE_BLOCK, PAIR_BLOCK = 1024, 8192, 1 << 16

_ONES = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
CHUNK = 256
# Multi-picture JPEG: the first picture is an ordinary JPEG.
SAME_FORMAT = {"MPO": "JPEG"}

Listed = Sequence[tuple[str, Item]]


def thumbnail(image: Image.Image) -> Bytes:
    """(17, 17) gray values of a decoded image, each the mean of its part of the picture."""
    from PIL import Image as Pillow

    # Pillow converts LAB to RGB alone.
    colors = image.convert("RGB") if image.mode == "LAB" else image
    gray = colors if colors.mode == "L" else colors.convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), Pillow.Resampling.BOX), dtype=np.uint8)


def has_contrast(gray: Bytes) -> bool:
    """True when a thumbnail has enough contrast to tell pictures apart."""
    return bool(gray.std() >= MIN_CONTRAST)


def gradient_signs(thumbnails: Bytes) -> Bytes:
    """(n, 64) the 512 signs of each thumbnail's gradients, packed into bytes."""
    gray = thumbnails.astype(np.int16)
    last = SIDE - 1
    across = gray[:, :last, 1:] - gray[:, :last, :last] > STEP
    down = gray[:, 1:, :last] - gray[:, :last, :last] > STEP
    both = [part.reshape(len(gray), last * last) for part in (across, down)]
    return np.packbits(np.concatenate(both, axis=1), axis=1)


def nearest(base: Bytes, queries: Bytes) -> tuple[Indices, Indices]:
    """For each query thumbnail the index of the closest one in `base`, and its distance.

    base: (n, 17, 17); queries: (m, 17, 17). Both results are (m,); the index is -1 where nothing
    looks alike, and the distance then is meaningless. Among equals the first one counts.
    """
    found = np.full(len(queries), -1, dtype=np.int64)
    distances = np.full(len(queries), MAX_DISTANCE + 1, dtype=np.int64)
    units, signs = _units(queries), gradient_signs(queries)
    for start in range(0, len(base), BASE_BLOCK):
        block = base[start : start + BASE_BLOCK]
        for query, other, distance in _alike(block, units, signs):
            closer = distance < distances[query]
            distances[query[closer]] = distance[closer]
            found[query[closer]] = other[closer] + start
    return found, distances


def same_bytes(digests: Bytes) -> Iterator[Indices]:
    """Groups of two or more equal rows of (n, 32) digests, as ascending indices."""
    if not len(digests):
        return
    order = np.lexsort(digests.T)
    ordered = digests[order]
    changes = np.flatnonzero((ordered[1:] != ordered[:-1]).any(axis=1)) + 1
    edges = np.concatenate([[0], changes, [len(order)]])
    for place in np.flatnonzero(np.diff(edges) > 1):
        yield np.sort(order[edges[place] : edges[place + 1]])


def _units(thumbnails: Bytes) -> Floats:
    """(n, 289) thumbnails without their mean, at unit length: products are correlations."""
    flat = thumbnails.reshape(len(thumbnails), SIDE * SIDE).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def _alike(base: Bytes, units: Floats, signs: Bytes) -> Iterator[tuple[Indices, Indices, Indices]]:
    """(query, base index, distance) of pairs that look alike; each query once per yield."""
    base_units, base_signs = _units(base), gradient_signs(base)
    for start in range(0, len(units), QUERY_BLOCK):
        products = units[start : start + QUERY_BLOCK] @ base_units.T
        queries, others = np.nonzero(products >= MIN_CORRELATION)
        for first in range(0, len(queries), PAIR_BLOCK):
            part = slice(first, first + PAIR_BLOCK)
            query, other = queries[part] + start, others[part]
            distance = _ONES[signs[query] ^ base_signs[other]].sum(axis=1, dtype=np.int64)
            yield _closest(query, other, distance)


def _closest(query: Indices, other: Indices, distance: Indices) -> tuple[Indices, Indices, Indices]:
    """Of each query only the pair of the smallest distance."""
    order = np.lexsort((other, distance, query))
    _, first = np.unique(query[order], return_index=True)
    kept = order[first]
    return query[kept], other[kept], distance[kept]


@dataclass(frozen=True)
class Look:
    """Facts of one image file; `thumbnail` is None where it tells nothing apart."""

    digest: bytes
    format: str
    mode: str
    size: tuple[int, int]
    turned: bool
    thumbnail: Bytes | None


@dataclass
class Scan:
    """All images of a data set, in the order of `listed`.

    digests: (n, 32) SHA-256 of each file; thumbnails: (n, 17, 17) gray values; decoded: (n,)
    whether an image opened; compared: (n,) whether it has a thumbnail that tells it from others.
    problems: index to what is wrong with a file that cannot be used.
    """

    listed: Listed
    digests: Bytes
    thumbnails: Bytes
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

    def add(self, index: int, found: Look | str) -> None:
        """Take in one image, or what is wrong with it."""
        if isinstance(found, str):
            self.problems[index] = found
            return
        self.decoded[index] = True
        self.digests[index] = np.frombuffer(found.digest, dtype=np.uint8)
        if found.thumbnail is not None:
            self.thumbnails[index] = found.thumbnail
            self.compared[index] = True
        self.formats[found.format] += 1
        self.modes[found.mode] += 1
        self.turned += found.turned
        if min(found.size) <= 1:
            self.tiny.append(index)
        self._measure(found.size)
        extension = PurePosixPath(self.listed[index][1].id).suffix.lower()
        named = _format_of(extension)
        if named and named != found.format:
            self.misnamed[extension, found.format] += 1

    def _measure(self, size: tuple[int, int]) -> None:
        def area(size: tuple[int, int]) -> int:
            return size[0] * size[1]

        self.smallest = min(self.smallest or size, size, key=area)
        self.largest = max(self.largest or size, size, key=area)


def scan(
    dataset: Dataset, listed: Listed, jobs: int, advance: Callable[[int], None] | None = None
) -> Scan:
    """Read and decode all images with `jobs` threads; `advance` is told how many more are done.

    Digests of images that decode are kept for later runs, where the cache can be written to.
    """
    from PIL import Image

    Image.init()
    count = len(listed)
    digests = dataset_digests(dataset)
    digests.load()
    found = Scan(
        listed,
        np.zeros((count, 32), np.uint8),
        np.zeros((count, SIDE, SIDE), np.uint8),
        np.zeros(count, np.bool_),
        np.zeros(count, np.bool_),
    )
    with warnings.catch_warnings(), ThreadPoolExecutor(jobs) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, count, CHUNK):
            chunk = [item for _, item in listed[start : start + CHUNK]]
            for offset, look in enumerate(
                pool.map(lambda item: _look(dataset, digests, item), chunk)
            ):
                found.add(start + offset, look)
            if advance is not None:
                advance(len(chunk))
    digests.save()
    return found


def _look(dataset: Dataset, digests: DatasetDigests, item: Item) -> Look | str:
    """Facts of an item's file, or one line on why it cannot be used."""
    taken = now()
    try:
        stamp = digests.stamp(item)
        content = dataset.read(item)
    except FileNotFoundError:
        return "missing"
    except Exception as error:
        return f"cannot be read: {in_a_line(error)}"
    image = decoded(content)
    if isinstance(image, str):
        return f"damaged: {image}"
    try:
        look = deep_problem(image) or _seen(image, content)
    except Exception as error:
        return f"damaged: {in_a_line(error)}"
    if isinstance(look, str):
        return look
    known = Known(look.digest, True, look.turned)
    if digests.get(item, stamp) != known:
        digests.put(item, stamp, known, taken)
    return look


def _seen(image: Image.Image, content: bytes) -> Look:
    form = SAME_FORMAT.get(image.format or "", image.format or "unknown")
    gray = thumbnail(image) if min(image.size) >= SIDE else None
    return Look(
        hashlib.sha256(content).digest(),
        form,
        image.mode,
        image.size,
        is_turned(image),
        gray if gray is not None and has_contrast(gray) else None,
    )


def _format_of(extension: str) -> str | None:
    from PIL import Image

    found = Image.registered_extensions().get(extension)
    return SAME_FORMAT.get(found or "", found)
