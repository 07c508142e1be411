"""Images that are in two pools: the same bytes, or the same picture saved another way.

A picture is compared by its thumbnail of 17 x 17 gray values. Two thumbnails look alike when their
correlation is high and few of the 512 signs of their horizontal and vertical gradients differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

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


def thumbnail(image: Image.Image) -> Bytes:
    """(17, 17) gray values of a decoded image, each the mean of its part of the picture."""
    from PIL import Image as Pillow

    # Pillow converts LAB to RGB alone.
    colors = image.convert("RGB") if image.mode == "LAB" else image
    gray = colors if colors.mode == "L" else colors.convert("L")
    return np.asarray(gray.resize((SIDE, SIDE), Pillow.Resampling.BOX), dtype=np.uint8)


def has_contrast(gray: Bytes) -> bool:
    """Whether there is enough contrast in a thumbnail to tell pictures apart."""
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
