"""Finds pictures that look alike among millions, without comparing all pairs.

`nearest` is the entry. Two pictures look alike when, for the whole of one and some window of the
other, at most 7 of 64 bits of their codes differ and the correlation of the two parts, at 12 x 12
gray values, is at least 0.9; the whole may be mirrored. Of four bands of 16 bits, one then differs
in at most one bit, and so the search reads 4 x 17 buckets and finds exactly what all pairs would.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewshot_bench.plugins.data.fingerprints import WINDOWS, Codes, Fingerprints, Floats, Indices

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Keys = np.ndarray[Any, np.dtype[np.uint16]]

# Chosen on 700,000 pairs of real photographs; docs/data-verify.md has the numbers.
MAX_DISTANCE = 7
MIN_CORRELATION = 0.9
BANDS, BAND_BITS = 4, 16
BUCKETS = 1 << BAND_BITS
# A band within one bit: the bucket itself, and those that one other bit makes.
FLIPS = (0, *(1 << bit for bit in range(BAND_BITS)))
# Codes of a bucket stand in rows of so many; so many queries are looked up, and so many pairs
# compared at a time.
ROW, QUERIES, PAIRS = 8, 8192, 1 << 11


@dataclass
class Nearest:
    """For each of n queries the picture that is closest, among equals the first.

    index: (n,), -1 where nothing looks alike; the rest is meaningless there. distance: bits that
    differ; window: the one of `WINDOWS`; base_cropped: True where it is a window of the picture
    that was found, else of the query; mirrored: True where the other is mirrored.
    """

    index: Indices
    distance: Indices
    window: Indices
    base_cropped: Bools
    mirrored: Bools

    @classmethod
    def nothing(cls, count: int) -> Nearest:
        """Nothing found yet."""
        return cls(
            *(np.full(count, -1), np.full(count, MAX_DISTANCE + 1), np.zeros(count, np.int64)),
            *(np.zeros(count, np.bool_), np.zeros(count, np.bool_)),
        )

    def take(self, query: Indices, base: Indices, distance: Indices, how: _Comparison) -> None:
        """Take in pairs that look alike, where they are closer than those before."""
        order = np.lexsort((base, distance, query))
        query, first = np.unique(query[order], return_index=True)
        base, distance = base[order[first]], distance[order[first]]
        closer = self.improved(query, base, distance)
        query = query[closer]
        self.index[query], self.distance[query] = base[closer], distance[closer]
        self.window[query] = how.window
        self.base_cropped[query], self.mirrored[query] = how.base_cropped, how.mirrored

    def improved(self, query: Indices, base: Indices, distance: Indices) -> Bools:
        """True for pairs that would be closer than those before, or as close and earlier."""
        known = self.distance[query]
        closer: Bools = (distance < known) | ((distance == known) & (base < self.index[query]))
        return closer


@dataclass(frozen=True)
class _Comparison:
    """A way to compare: a window, by its place in `WINDOWS`, of one, and the whole of the other."""

    window: int
    base_cropped: bool
    mirrored: bool


@dataclass(frozen=True)
class _CodedPictures:
    """Codes to compare, and the place of each among the base pictures or the queries."""

    codes: Codes
    places: Indices


def nearest(prints: Fingerprints, base: Indices, queries: Indices, jobs: int = 1) -> Nearest:
    """For each query the closest picture of `base` that looks alike; `jobs` threads search.

    base, queries: numbers of pictures, ascending; what is found are such numbers, too.
    """
    search = _Search(prints, base, queries)
    with ThreadPoolExecutor(jobs) as pool:
        for window in range(len(WINDOWS)):
            search.look_up(pool, window, base_cropped=False)
            search.look_up(pool, window, base_cropped=True)
    return search.found


class _Search:
    """One search: blocks of queries have none in common, so that threads share `found`."""

    def __init__(self, prints: Fingerprints, base: Indices, queries: Indices) -> None:
        self.found = Nearest.nothing(len(queries))
        self._prints, self._base, self._queries = prints, base, queries

    def look_up(self, pool: ThreadPoolExecutor, window: int, *, base_cropped: bool) -> None:
        """Compare a window of one side with the whole of the other, mirrored or not."""
        cropped, whole = self._queries, self._base
        if base_cropped:
            cropped, whole = whole, cropped
        having = self._prints.having(WINDOWS[window], cropped)
        part = _CodedPictures(self._prints.codes[cropped[having], window], having)
        for mirrored in (False, True):
            codes = self._prints.mirrored[whole] if mirrored else self._prints.codes[whole, 0]
            other = _CodedPictures(codes, np.arange(len(whole)))
            how = _Comparison(window, base_cropped, mirrored)
            self._compare(pool, *((part, other) if base_cropped else (other, part)), how)

    def _compare(
        self,
        pool: ThreadPoolExecutor,
        base: _CodedPictures,
        queries: _CodedPictures,
        how: _Comparison,
    ) -> None:
        """Take in all pairs of two sides, one band after the other."""
        for place in range(BANDS):
            band = Band(base.codes, base.places, place)

            def search(block: Indices, band: Band = band) -> None:
                for found, others, distances in band.within(queries.codes[block]):
                    query = queries.places[block[found]]
                    self._take(query, self._base[others], distances, how)

            for _ in pool.map(search, band.blocks(queries.codes)):
                pass

    def _take(self, query: Indices, base: Indices, distance: Indices, how: _Comparison) -> None:
        """Take in those of the pairs whose parts correlate."""
        for start in range(0, len(query), PAIRS):
            part = slice(start, start + PAIRS)
            new = start + np.flatnonzero(
                self.found.improved(query[part], base[part], distance[part])
            )
            alike = new[self._correlation(query[new], base[new], how) >= MIN_CORRELATION]
            self.found.take(query[alike], base[alike], distance[alike], how)

    def _correlation(self, query: Indices, base: Indices, how: _Comparison) -> Floats:
        """(n,) correlation of the parts of each pair that are compared."""
        windows = (WINDOWS[how.window], WINDOWS[0])[:: -1 if how.base_cropped else 1]
        one = self._prints.view(self._queries[query], windows[0])
        two = self._prints.view(base, windows[1])
        product: Floats = (one[..., ::-1] * two if how.mirrored else one * two).sum(axis=(1, 2))
        return product


class Band:
    """Codes by one of their bands, in rows of `ROW` that hold codes of a single bucket.

    Rows are compared as a whole, several times as fast as codes one by one. ids: (n,) the number
    that each code is found as.
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
        """Queries in blocks that look into neighboring buckets, which the processor then caches."""
        order = np.argsort(_keys(queries, self._band), kind="stable")
        return [order[at : at + QUERIES] for at in range(0, len(order), QUERIES)]

    def within(self, queries: Codes) -> Iterator[tuple[Indices, Indices, Indices]]:
        """(place in `queries`, id, distance) of all pairs within `MAX_DISTANCE`.

        Only of those whose band differs in at most one bit, and none that an earlier band has.
        """
        keys = _keys(queries, self._band)
        for flip in FLIPS:
            yield self._compared(queries, keys ^ np.uint16(flip))

    def _compared(self, queries: Codes, keys: Keys) -> tuple[Indices, Indices, Indices]:
        """Pairs of queries with the codes in the bucket of each."""
        rows = self._rows[keys]
        place = np.repeat(np.arange(len(queries), dtype=np.int32), rows)
        ends = np.cumsum(rows, dtype=np.int32)
        row = np.arange(len(place), dtype=np.int32) + (self._first[keys] - ends + rows)[place]
        differing = self._codes[row] ^ queries[place][:, None]
        hit = np.flatnonzero(np.bitwise_count(differing) <= MAX_DISTANCE)
        ids = self._ids[row[hit // ROW] * ROW + hit % ROW]
        differing = differing.reshape(-1)[hit]
        new = ids >= 0
        for earlier in range(self._band):
            new &= np.bitwise_count(_keys(differing, earlier)) > 1
        place, distance = place[hit[new] // ROW], np.bitwise_count(differing[new])
        return place.astype(np.int64), ids[new].astype(np.int64), distance.astype(np.int64)


def _keys(codes: Codes, band: int) -> Keys:
    return (codes >> np.uint64(BAND_BITS * band)).astype(np.uint16)
