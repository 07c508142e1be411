"""Batches of images that threads loaded, with what they cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fewshot_bench.images.segments import Segment
from fewshot_bench.profiling.meter import Cost, ImageTally
from fewshot_bench.utils.prefetch import Ahead


@dataclasses.dataclass(slots=True)
class Loaded:
    """Images `indices` that were loaded in a thread.

    prices: what each had cost, None for one that was decoded now; serving: what reading the others
    took; cpu: CPU seconds of decoding; mapped: the file of the cache that `images` lie in.
    """

    indices: Sequence[int]
    images: Any
    prices: list[Cost | None]
    serving: Cost
    cpu: float
    mapped: Segment | None = None


def timed(
    loading: Ahead[Loaded],
    tally: ImageTally,
    count: Callable[[Loaded, float, ImageTally], None],
) -> Iterator[Loaded]:
    """What is loaded, with the seconds that were waited for it."""
    while True:
        start = time.perf_counter()
        loaded = next(loading, None)
        waited = time.perf_counter() - start
        tally.elapsed += waited
        if loaded is None:
            return
        count(loaded, waited, tally)
        yield loaded
