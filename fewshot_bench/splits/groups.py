"""Batches and streams, which keep a query company, drawn where labels are.

`draw_groups` is the entry point. Draws follow from the labels of the test list, its digest, a seed
and the condition alone, never from a method; every query is in exactly one group.
"""

from __future__ import annotations

import math
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import median_low
from typing import Any

from fewshot_bench.utils.rng import derive

Group = tuple[int, ...]

ALL, STREAM, BY_CLASS = "all", "stream", "stream-classes"
_BATCH = re.compile(r"batch-(\d+)(?:-k(\d+)-(\d+))?")
_SPREAD = re.compile(r"stream-g(\d*\.?\d+)")
# Queries of a slot over which classes are spread (StatA, main.py:148), and of a part of a stream.
SLOT, PART = 128, 64


def is_stream(queries: str) -> bool:
    """True for a condition under which queries come one after the other."""
    return queries.startswith(STREAM)


def draw_groups(queries: str, labels: Sequence[int], seed: int, digest: str) -> tuple[Group, ...]:
    """Groups of places in a test list: batches, or one group that is the order of a stream.

    queries: a value of the condition other than `alone`. labels: (n,), n > 0, of the list. digest:
    identity of the list. Within a group, the order is drawn, too.
    """
    rng = random.Random(derive(seed, "queries", queries, digest))
    places = list(range(len(labels)))
    rng.shuffle(places)
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for place in places:
        by_class[labels[place]].append(place)
    if queries in (ALL, STREAM):
        return (tuple(places),)
    if queries == BY_CLASS:
        classes = rng.sample(sorted(by_class), len(by_class))
        return (tuple(chain.from_iterable(by_class[label] for label in classes)),)
    if spread := _SPREAD.fullmatch(queries):
        return (_spread(by_class, float(spread[1]), rng),)
    batch = _BATCH.fullmatch(queries)
    if batch is None:
        raise ValueError(f"queries '{queries}': expected a value of the condition")
    size, least, most = (int(number or 0) for number in batch.groups())
    if most:
        return tuple(_draw_of_few(by_class, size, range(least, most + 1), rng))
    return tuple(tuple(places[at : at + size]) for at in range(0, len(places), size))


def _draw_of_few(
    left: dict[int, list[int]], size: int, counts: range, rng: random.Random
) -> Iterable[Group]:
    """Batches of few classes until none is left: draw k, then k classes, then up to `size` images.

    The last batches are small and poor in classes, since most classes are used up by then.
    """
    while left:
        chosen = rng.sample(sorted(left), min(rng.choice(counts), len(left)))
        images = [place for label in chosen for place in left[label]]
        batch = rng.sample(images, min(size, len(images)))
        taken = set(batch)
        for label in chosen:
            left[label] = [place for place in left[label] if place not in taken]
            if not left[label]:
                del left[label]
        yield tuple(batch)


def _spread(by_class: dict[int, list[int]], gamma: float, rng: random.Random) -> Group:
    """The slots of a stream one after the other, each class spread over them by Dirichlet(gamma).

    StatA sampler.py:109-137, without dropping a last part.
    """
    count = min(len(by_class), -(-sum(map(len, by_class.values())) // SLOT))
    slots: list[list[int]] = [[] for _ in range(count)]
    for label in sorted(by_class):
        places, start, share = by_class[label], 0, 0.0
        for slot, part in zip(slots, _draw_dirichlet(gamma, count, rng), strict=True):
            share += part
            end = len(places) if slot is slots[-1] else min(len(places), int(share * len(places)))
            slot += places[start:end]
            start = end
    for slot in slots:
        rng.shuffle(slot)
    return tuple(chain.from_iterable(slots))


def _draw_dirichlet(gamma: float, count: int, rng: random.Random) -> list[float]:
    """A point of the simplex by logarithms of gamma variates, which underflow for small `gamma`."""
    logs = [
        math.log(rng.gammavariate(gamma + 1, 1)) + math.log(1 - rng.random()) / gamma
        for _ in range(count)
    ]
    highest = max(logs)
    powers = [math.exp(log - highest) for log in logs]
    total = sum(powers)
    return [power / total for power in powers]


def describe_groups(queries: str, groups: Sequence[Group], labels: Sequence[int]) -> dict[str, Any]:
    """Realized groups for a record: how many, their sizes and their numbers of classes.

    The least, the median and the most; numbers of classes of a stream are those of `PART` queries
    in a row.
    """
    parts = [group[at : at + PART] for group in groups for at in range(0, len(group), PART)]
    counted = parts if is_stream(queries) else groups
    classes = [len({labels[place] for place in group}) for group in counted]
    ranges = {"group_sizes": [*map(len, groups)], "group_classes": classes}
    return {"groups": len(groups)} | {
        name: [min(of), median_low(of), max(of)] for name, of in ranges.items()
    }


def number_groups(queries: str, groups: Sequence[Group], count: int) -> list[int]:
    """(count,) the number of each query's batch, or its position in the stream."""
    numbers = [0] * count
    for number, group in enumerate(groups):
        for position, place in enumerate(group):
            numbers[place] = position if is_stream(queries) else number
    return numbers
