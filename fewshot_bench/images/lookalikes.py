"""Finds pictures that look alike among millions, without comparing all pairs.

`nearest` is the entry point. Two pictures look alike when, for the whole of one and some window of
the other, at most 7 of 64 bits of their codes differ and the correlation of the two parts, at 12 x
12 gray values, is at least 0.9; the whole may be mirrored. One of four bands of 16 bits then
differs in at most one bit, so reading 4 x 17 buckets finds what an exhaustive search would.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from fewshot_bench.images.fingerprints import (
    WINDOWS,
    Bytes,
    Codes,
    Fingerprints,
    Floats,
    Indices,
    resample,
)
from fewshot_bench.utils.prefetch import spread

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Keys = np.ndarray[Any, np.dtype[np.uint16]]

# Chosen on 714,610 pairs of real photographs: 44 look alike, 38 of them by eye, too.
MAX_DISTANCE = 7
MIN_CORRELATION = 0.9
BANDS, BAND_BITS = 4, 16
BUCKETS = 1 << BAND_BITS
# Buckets within one bit of a band: its own, and one for each flipped bit.
FLIPS = (0, *(1 << bit for bit in range(BAND_BITS)))
# Codes per row of a bucket; queries and rows looked up, and pairs compared, at a time.
ROW, QUERIES, ROWS, PAIRS = 8, 8192, 1 << 17, 1 << 11
SAMPLE = 256
# Pictures compared with all others at a time.
BLOCK = 64
# Colors per side of a picture, and the change of brightness that they may have.
COLORS, GAIN = 8, (0.75, 1.33)


@dataclass
class Nearest:
    """The closest picture for each of n queries; ties go to the first.

    index: (n,), -1 if nothing looks alike, and the other fields are meaningless there. distance:
    differing bits; window: index into `WINDOWS`; base_cropped: True if the found picture is
    cropped to that window, else the query is; mirrored: True if the other one is mirrored.
    """

    index: Indices
    distance: Indices
    window: Indices
    base_cropped: Bools
    mirrored: Bools

    @classmethod
    def nothing(cls, count: int) -> Nearest:
        """An empty result for `count` queries."""
        return cls(
            *(np.full(count, -1), np.full(count, MAX_DISTANCE + 1), np.zeros(count, np.int64)),
            *(np.zeros(count, np.bool_), np.zeros(count, np.bool_)),
        )

    def take(self, query: Indices, base: Indices, distance: Indices, how: _Comparison) -> None:
        """Record pairs that look alike, if they are closer than the best so far."""
        order = np.lexsort((base, distance, query))
        query, first = np.unique(query[order], return_index=True)
        base, distance = base[order[first]], distance[order[first]]
        closer = self.improves(query, base, distance)
        query = query[closer]
        self.index[query], self.distance[query] = base[closer], distance[closer]
        self.window[query] = how.window
        self.base_cropped[query], self.mirrored[query] = how.base_cropped, how.mirrored

    def improves(self, query: Indices, base: Indices, distance: Indices) -> Bools:
        """True for pairs closer than the best so far, or as close with a lower index."""
        best = self.distance[query]
        closer: Bools = (distance < best) | ((distance == best) & (base < self.index[query]))
        return closer


class _Comparison(NamedTuple):
    """A comparison: a window (index into `WINDOWS`) of one picture, the whole of the other."""

    window: int
    base_cropped: bool
    mirrored: bool


def nearest(prints: Fingerprints, base: Indices, queries: Indices, jobs: int = 1) -> Nearest:
    """Find the closest picture of `base` that looks alike for each query, with `jobs` threads.

    base, queries: ascending indices into `prints`; the result holds such indices, too.
    """
    search = _Search(prints, base, queries)
    with ThreadPoolExecutor(jobs) as pool:
        for way in product(range(len(WINDOWS)), (False, True), (False, True)):
            search.compare(pool, _Comparison(*way))
    return search.found


class Likeness(NamedTuple):
    """The least likeness of two pictures: most differing bits, and correlation, as above.

    colors: most root mean square difference of 8 x 8 colors, once their brightness is the same.
    """

    distance: int
    correlation: float
    colors: float


# Of copies, and of those in a set whose pictures look alike.
COPY, CLOSE = Likeness(11, 0.85, 13.0), Likeness(5, 0.98, 5.0)


def share_alike(
    prints: Fingerprints, base: Indices, queries: Indices, least: Likeness = COPY
) -> float:
    """The share of pairs of a query and a picture of `base` that look like copies, among a sample.

    Only the gray values of wholes are compared, of up to `SAMPLE` queries and pictures of `base`.
    """
    some = [all[:: -(-len(all) // SAMPLE)] for all in (queries, base) if len(all)]
    if len(some) < 2:
        return 0.0
    first_codes, second_codes = (prints.codes[part, 0] for part in some)
    close = np.bitwise_count(first_codes[:, None] ^ second_codes) <= least.distance
    first, second = (prints.view(part, 0).reshape(len(part), -1) for part in some)
    return float((close & (first @ second.T >= least.correlation)).mean())


def pairs_alike(prints: Fingerprints, thumbnails: Bytes, least: Likeness = COPY) -> Indices:
    """(m, 2) pairs of copies among n pictures, each ascending; thumbnails: (n, 32, 32, 3).

    All pairs are compared, so that cost is quadratic; `CLOSE` compares whole pictures only.
    """
    everything, channels = np.arange(len(prints)), thumbnails.transpose(3, 0, 1, 2)
    wholes = prints.view(everything, 0)

    def colors(which: Indices, window: int) -> Floats:
        return resample(channels[:, which], prints.parts(which, window), COLORS)

    def search(window: int) -> Indices:
        views, cropped = prints.view(everything, window), prints.indices_with(window, everything)
        pairs = [np.zeros((0, 2), np.int64)]
        for start, mirrored in product(range(0, len(cropped), BLOCK), (False, True)):
            part, way = cropped[start : start + BLOCK], -1 if mirrored else 1
            codes = prints.mirrored if mirrored else prints.codes[:, 0]
            distance = np.bitwise_count(prints.codes[part, window][:, None] ^ codes)
            places, second = np.nonzero(distance <= least.distance)
            first = part[places]
            alike = np.einsum("nij,nij->n", views[first], wholes[second, :, ::way])
            kept = (alike >= least.correlation) & (first != second)
            first, second = first[kept], second[kept]
            change = _measure_recoloring(colors(first, window), colors(second, 0)[..., ::way])
            pairs.append(np.stack([first, second], axis=1)[change <= least.colors])
        return np.sort(np.concatenate(pairs), axis=1)

    ways = range(len(WINDOWS) if least is COPY else 1)
    return np.unique(np.concatenate(spread(search, ways, size=1)), axis=0)


def _measure_recoloring(first: Floats, second: Floats) -> Floats:
    """(n,) root mean square difference of (3, n, 8, 8) colors, once their brightness is equal."""
    gain = (first * second).sum(axis=(0, 2, 3)) / np.maximum((second**2).sum(axis=(0, 2, 3)), 1)
    evened = np.clip(gain, *GAIN)[:, None, None] * second
    return np.asarray(np.sqrt(((first - evened) ** 2).mean(axis=(0, 2, 3))))


class _Search:
    """One search; query blocks are disjoint, so that threads can share `found`."""

    def __init__(self, prints: Fingerprints, base: Indices, queries: Indices) -> None:
        self.found = Nearest.nothing(len(queries))
        self._prints, self._base, self._queries = prints, base, queries

    def compare(self, pool: ThreadPoolExecutor, how: _Comparison) -> None:
        """Search all pairs, one band after the other."""
        cropped, whole = self._queries, self._base
        if how.base_cropped:
            cropped, whole = whole, cropped
        members = self._prints.indices_with(how.window, cropped)
        part = self._prints.codes[cropped[members], how.window], members
        wholes = self._prints.mirrored if how.mirrored else self._prints.codes[:, 0]
        other = wholes[whole], np.arange(len(whole))
        base, (codes, positions) = (part, other) if how.base_cropped else (other, part)
        for number in range(BANDS):
            band = Band(base[0], base[1], number)

            def search(block: Indices, band: Band = band) -> None:
                for hits, others, distances in band.within(codes[block]):
                    self._take(positions[block[hits]], self._base[others], distances, how)

            for _ in pool.map(search, band.blocks(codes)):
                pass

    def _take(self, query: Indices, base: Indices, distance: Indices, how: _Comparison) -> None:
        """Record the pairs whose compared parts correlate."""
        for start in range(0, len(query), PAIRS):
            part = slice(start, start + PAIRS)
            better = self.found.improves(query[part], base[part], distance[part])
            new = start + np.flatnonzero(better)
            alike = new[self._correlation(query[new], base[new], how) >= MIN_CORRELATION]
            self.found.take(query[alike], base[alike], distance[alike], how)

    def _correlation(self, query: Indices, base: Indices, how: _Comparison) -> Floats:
        """(n,) correlation of the compared parts of each pair."""
        windows = (how.window, 0)[:: -1 if how.base_cropped else 1]
        first = self._prints.view(self._queries[query], windows[0])
        first = first[..., ::-1] if how.mirrored else first
        return np.asarray((first * self._prints.view(base, windows[1])).sum(axis=(1, 2)))


class Band:
    """Index of codes by one of their bands, in rows of `ROW` codes of a single bucket.

    Comparing whole rows is several times as fast as comparing single codes. ids: (n,) the id to
    report for each code.
    """

    def __init__(self, codes: Codes, ids: Indices, band: int) -> None:
        self._band = band
        keys = _keys(codes, band)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=BUCKETS)
        rows = -(-counts // ROW)
        first = np.cumsum(rows) - rows
        slots = np.arange(len(codes)) + np.repeat(first * ROW - np.cumsum(counts) + counts, counts)
        self._rows, self._first = rows.astype(np.int32), first.astype(np.int32)
        self._codes = np.zeros((int(rows.sum()), ROW), np.uint64)
        self._ids = np.full(self._codes.size, -1, np.int32)
        self._codes.reshape(-1)[slots] = codes[order]
        self._ids[slots] = ids[order]

    def blocks(self, queries: Codes) -> list[Indices]:
        """Split queries into blocks that read neighboring buckets, which fit the CPU cache."""
        order = np.argsort(_keys(queries, self._band), kind="stable")
        return [order[at : at + QUERIES] for at in range(0, len(order), QUERIES)]

    def within(self, queries: Codes) -> Iterator[tuple[Indices, Indices, Indices]]:
        """Yield (position in `queries`, id, distance) arrays of pairs within `MAX_DISTANCE`.

        Only pairs whose band differs in at most one bit, and that no earlier band has found.
        """
        keys = _keys(queries, self._band)
        for flip in FLIPS:
            flipped = keys ^ np.uint16(flip)
            # Where many codes share a bucket, all pairs at once would fill the memory.
            parts = np.cumsum(self._rows[flipped], dtype=np.int64) // ROWS
            edges = np.flatnonzero(np.diff(parts)) + 1
            for part in np.split(np.arange(len(queries)), edges):
                hits, ids, distance = self._compare_rows(queries[part], flipped[part])
                yield part[hits], ids, distance

    def _compare_rows(self, queries: Codes, keys: Keys) -> tuple[Indices, Indices, Indices]:
        """Compare each query with the codes in its bucket, the one of its key."""
        rows = self._rows[keys]
        owner = np.repeat(np.arange(len(queries), dtype=np.int32), rows)
        ends = np.cumsum(rows, dtype=np.int32)
        row = np.arange(len(owner), dtype=np.int32) + (self._first[keys] - ends + rows)[owner]
        differing = self._codes[row] ^ queries[owner][:, None]
        hit = np.flatnonzero(np.bitwise_count(differing) <= MAX_DISTANCE)
        ids = self._ids[row[hit // ROW] * ROW + hit % ROW]
        differing = differing.reshape(-1)[hit]
        new = ids >= 0
        for earlier in range(self._band):
            new &= np.bitwise_count(_keys(differing, earlier)) > 1
        owner, distance = owner[hit[new] // ROW], np.bitwise_count(differing[new])
        return owner.astype(np.int64), ids[new].astype(np.int64), distance.astype(np.int64)


def _keys(codes: Codes, band: int) -> Keys:
    return (codes >> np.uint64(BAND_BITS * band)).astype(np.uint16)
