"""A set of cells as few products of their axes: exactly, or as the one product around them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Any

Point = tuple[Hashable, ...]
Box = tuple[frozenset[Any], ...]


def boxes(points: Collection[Point]) -> list[Box]:
    """Disjoint products that together are exactly these points; the fewest of a few attempts.

    Every point has the same number of axes. Points that agree on all other axes are joined along
    one axis after the other; the order of the axes decides how many products are left.
    """
    if not points:
        return []
    whole = hull(points)
    if math.prod(map(len, whole)) == len(set(points)):
        return [whole]
    # Small numbers in place of long names: they are compared and hashed again and again.
    values = [list(axis) for axis in whole]
    places = [{value: number for number, value in enumerate(axis)} for axis in values]
    alone = [[frozenset([number]) for number in range(len(axis))] for axis in values]
    single: list[Box] = [
        tuple(a[p[v]] for a, p, v in zip(alone, places, point, strict=True)) for point in points
    ]
    found = (_joined(single, order) for order in _orders(len(whole)))
    named = [
        [tuple(frozenset(v[n] for n in ns) for v, ns in zip(values, box, strict=True)) for box in f]
        for f in found
    ]
    return min(named, key=len)


def _orders(count: int) -> list[list[int]]:
    """Orders of the axes, a few of all."""
    axes = range(count)
    orders = [[*axes[start:], *axes[:start]] for start in axes]
    return orders + [order[::-1] for order in orders]


def _joined(found: list[Box], order: Sequence[int]) -> list[Box]:
    for axis in order:
        groups: dict[Box, frozenset[Any]] = {}
        for box in found:
            others = box[:axis] + box[axis + 1 :]
            groups[others] = groups.get(others, frozenset()) | box[axis]
        found = [(*key[:axis], values, *key[axis:]) for key, values in groups.items()]
    return found


def hull(points: Collection[Point]) -> Box:
    """The smallest product that holds all points; it may hold others too."""
    return tuple(frozenset(values) for values in zip(*points, strict=True))


def is_product(rows: Collection[Point]) -> bool:
    """True when these distinct rows are all combinations of their columns' values."""
    return set(rows) == set(itertools.product(*hull(rows))) if rows else True
