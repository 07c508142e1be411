"""The only clock: phases, cost of shared work, images."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.profiling.cost import Work, count, counting

PHASES = ("encode_support", "encode_text", "fit", "encode_queries", "predict")
ENCODING = ("encode_support", "encode_text", "encode_queries")


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall clock and of CPU time, and what encoders did for it (see `work.Work`)."""

    wall: float = 0.0
    cpu: float = 0.0
    images: int = 0
    text_tokens: int = 0
    flops: int = 0
    uncounted: int = 0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(mine + theirs for mine, theirs in pairs))

    def times(self, count: int) -> Cost:
        """The cost of doing it `count` times."""
        return Cost(*(part * count for part in dataclasses.astuple(self)))

    @property
    def work(self) -> Work:
        """What encoders did."""
        return Work(self.images, self.text_tokens, self.flops, self.uncounted)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(max(0.0, self.wall - other.wall), max(0.0, self.cpu - other.cpu))

    def to_dict(self) -> dict[str, float]:
        """Plain seconds, microseconds kept."""
        return {"wall": round(self.wall, 6), "cpu": round(self.cpu, 6)}


class ImageTally:
    """Image-loading cost of one cell; cache hits are billed at their original price.

    elapsed: seconds that passed until pixels were there; decoded, cached: how many images were
    decoded, and how many came decoded from memory or from the disk; problem: why decoded images
    could not be kept; owed: what the billed clock is ahead of the real one.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.decoded = 0
        self.cached = 0
        self.problem = ""
        self.owed = Cost()
        self._paid: set[Hashable] = set()

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Upkeep of a cache, which is nobody's work: it passes and is not billed."""
        start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            self.elapsed += wall
            self.owed = Cost(self.owed.wall - wall, self.owed.cpu - cpu)

    def served(self, prices: Mapping[Hashable, Cost | None], serving: Cost) -> None:
        """Count images by what they had cost, None for one that was decoded just now.

        A cached one is billed at its price the first time in a cell, instead of its share of
        `serving`.
        """
        fresh = [p for key, p in prices.items() if p is not None and key not in self._paid]
        hits = sum(price is not None for price in prices.values())
        self._paid.update(prices)
        self.decoded += len(prices) - hits
        self.cached += hits
        if fresh:
            price, share = sum(fresh, Cost()), len(fresh) / hits
            wall = self.owed.wall + price.wall - share * serving.wall
            self.owed = Cost(wall, self.owed.cpu + price.cpu - share * serving.cpu)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        found: dict[str, Any] = {"elapsed": round(self.elapsed, 6)}
        found |= {"decoded": self.decoded, "cached": self.cached}
        return found | ({"problem": self.problem} if self.problem else {})


class Meter:
    """Bills phases of one cell; nested phases are not billed twice.

    Work that a cache answers is billed at what it cost when it was computed, so that a reported
    time does not depend on who ran first; `elapsed` keeps what really passed.
    """

    def __init__(self, device: torch.device) -> None:
        self.images = ImageTally()
        self._device = device
        self._billed: dict[str, Cost] = {}
        self._elapsed: dict[str, Cost] = {}
        self._stack: list[tuple[str, Cost, Cost]] = []
        self._priced: set[str] = set()
        self._paid: dict[str, set[bytes]] = {}
        self.images_seen = 0
        self.images_encoded = 0
        self.images_computed = 0
        self.computed = Work()
        self._kept = Work()
        self._owed = Work()

    def _now(self) -> Cost:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return Cost(time.perf_counter(), time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside as `name`; what inner phases take is theirs."""
        start, owed = self._now(), self.images.owed
        self._stack.append((name, Cost(), Cost()))
        try:
            yield
        finally:
            end = self._now()
            total, billed = end - start, (end + self.images.owed) - (start + owed)
            _, inner, inner_billed = self._stack.pop()
            self._elapsed[name] = self._elapsed.get(name, Cost()) + (total - inner)
            if name not in ENCODING:
                self._billed[name] = self._billed.get(name, Cost()) + (billed - inner_billed)
            if self._stack:
                outer, spent, spent_billed = self._stack[-1]
                self._stack[-1] = (outer, spent + total, spent_billed + billed)

    def measure(self, work: Callable[[], Tensor], *, images: bool = True) -> tuple[Tensor, Cost]:
        """Run `work` and say what it cost; with `images` it gives one row per encoded image."""
        start, done = self._now() + self.images.owed, Work()
        with counting(done):
            result = work()
        passed = (self._now() + self.images.owed) - start
        encoded = len(result) if images else 0
        if not done.images and encoded:
            # A backbone of a plug-in, which reports nothing.
            count(images=encoded, uncounted=encoded)
            done = Work(encoded, done.text_tokens, done.flops, encoded)
        self._kept.add(done)
        self.images_computed += encoded
        if encoded:
            # What small batches were filled up with is computed, and nobody's to pay.
            flops = done.flops * encoded // done.images
            done = Work(encoded, done.text_tokens, flops, min(done.uncounted, encoded))
        return result, Cost(passed.wall, passed.cpu, *dataclasses.astuple(done))

    def bill(self, key: str, cost: Cost) -> None:
        """Add the price of shared work to the phase that is open, once per piece of work."""
        if key in self._priced:
            return
        self._priced.add(key)
        self.pay(cost)

    def unpaid(self, name: str, keys: Iterable[bytes]) -> set[bytes]:
        """Those of `keys` under `name` that this cell has not paid for yet; from now on it has."""
        paid = self._paid.setdefault(name, set())
        new = set(keys) - paid
        paid |= new
        return new

    def pay(self, cost: Cost) -> None:
        """Add a price to the phase that is open."""
        self.images_encoded += cost.images
        self._owed.add(cost.work)
        name = self._stack[-1][0]
        self._billed[name] = self._billed.get(name, Cost()) + cost

    def work(self) -> dict[str, dict[str, int | None]]:
        """Encoder cost of this cell, as billed and as computed here."""
        billed = self.computed.minus(self._kept)
        billed.add(self._owed)
        return {"billed": billed.to_dict(), "computed": self.computed.to_dict()}

    def timings(self) -> dict[str, Any]:
        """Per phase `billed` and `elapsed` seconds, their totals (wall clock), and the images."""
        phases = {
            name: {
                "billed": self._billed.get(name, Cost()).to_dict(),
                "elapsed": self._elapsed.get(name, Cost()).to_dict(),
            }
            for name in PHASES
        }
        billed = sum(cost.wall for cost in self._billed.values())
        elapsed = sum(cost.wall for cost in self._elapsed.values())
        return {
            "phases": phases,
            "billed_seconds": round(billed, 6),
            "elapsed_seconds": round(elapsed, 6),
            "images": self.images.to_dict(),
        }
