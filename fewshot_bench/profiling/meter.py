"""Billing of one cell: phases, their seconds, and what encoders computed for them.

`Meter` holds the bill. Work that a cache answers is billed at what it cost when it was computed, so
that a reported time does not depend on which cell ran first; `elapsed` keeps what really passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.profiling.cost import Cost, count, counting

PHASES = ("encode_support", "encode_text", "fit", "encode_queries", "predict")
ENCODING = ("encode_support", "encode_text", "encode_queries")


class ImageCost:
    """Image-loading cost of one cell; cache hits are billed at their original price.

    elapsed: seconds that passed until pixels were there; decoded, cached: how many images were
    decoded, and how many came decoded from memory or from the disk; problem: why decoded images
    could not be kept; credit: how far the billed clock is ahead of the real one.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.decoded = 0
        self.cached = 0
        self.problem = ""
        self.credit = Cost()
        self._charged: set[Hashable] = set()

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Upkeep of a cache: its time passes and is not billed."""
        start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            spent = Cost(time.perf_counter() - start[0], time.process_time() - start[1])
            self.elapsed += spent.wall
            self.credit -= spent

    def served(self, prices: Mapping[Hashable, Cost | None], serving: Cost) -> None:
        """Count images by what they had cost, None for one that was decoded just now.

        A cached one is billed at its price the first time in a cell, instead of its share of
        `serving`.
        """
        fresh = [p for key, p in prices.items() if p is not None and key not in self._charged]
        hits = sum(price is not None for price in prices.values())
        self._charged.update(prices)
        self.decoded += len(prices) - hits
        self.cached += hits
        if fresh:
            self.credit += sum(fresh, Cost()) - serving.scaled(len(fresh), hits)

    def to_dict(self) -> dict[str, Any]:
        """The part of a record."""
        found: dict[str, Any] = {"elapsed": round(self.elapsed, 6)}
        found |= {"decoded": self.decoded, "cached": self.cached}
        return found | ({"problem": self.problem} if self.problem else {})


class Meter:
    """Bills phases of one cell; what nested phases take is theirs alone."""

    def __init__(self, device: torch.device) -> None:
        self.images = ImageCost()
        self._device = device
        self._billed: dict[str, Cost] = {}
        self._elapsed: dict[str, Cost] = {}
        self._stack: list[tuple[str, Cost, Cost]] = []
        self._charged = _KeySet()
        self.images_seen = 0
        self.images_encoded = 0
        self.images_computed = 0
        self.computed = Cost()
        self._cacheable = Cost()
        self._charges = Cost()
        self._once: set[object] = set()

    def _now(self) -> Cost:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return Cost(time.perf_counter(), time.process_time())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens inside as `name`; what inner phases take is theirs."""
        start, credit = self._now(), self.images.credit
        self._stack.append((name, Cost(), Cost()))
        try:
            yield
        finally:
            total = _passed(self._now() - start)
            billed = _passed(total + (self.images.credit - credit))
            _, inner, inner_billed = self._stack.pop()
            _add(self._elapsed, name, _passed(total - inner))
            if name not in ENCODING:
                _add(self._billed, name, _passed(billed - inner_billed))
            if self._stack:
                outer, spent, spent_billed = self._stack[-1]
                self._stack[-1] = (outer, spent + total, spent_billed + billed)

    def measure(self, work: Callable[[], Tensor], *, images: bool = True) -> tuple[Tensor, Cost]:
        """The result of `work` and its cost; with `images` it has one row per encoded image."""
        start, done = self._now() + self.images.credit, Cost()
        with counting(done):
            result = work()
        passed = (self._now() + self.images.credit) - start
        encoded = len(result) if images else 0
        if not done.images and encoded:
            # A backbone of a plug-in, which reports nothing.
            count(images=encoded, uncounted=encoded)
            done.images = done.uncounted = encoded
        self._cacheable.add(done)
        self.images_computed += encoded
        if encoded:
            # Padding rows of small batches are computed but not billed.
            done.flops = done.flops * encoded // done.images
            done.images, done.uncounted = encoded, min(done.uncounted, encoded)
        done.wall, done.cpu = max(0.0, passed.wall), max(0.0, passed.cpu)
        return result, done

    def uncharged(self, keys: Any) -> Any:
        """(n,) bool: those of distinct digests (n,) that were not charged to this cell before.

        From now on all of them are. keys: a numpy array of texts of 16 bytes or more.
        """
        return self._charged.add(keys.astype(f"S{_KeySet.SIZE}"))

    def charge(self, cost: Cost) -> None:
        """Add the price of shared work to the phase that is open."""
        self.images_encoded += cost.images
        self._charges.add(cost)
        _add(self._billed, self._stack[-1][0], cost)

    def charge_once(self, key: object, cost: Cost | None) -> None:
        """Add the price of work that is done once for a backbone, the first time in a cell.

        cost: None where it was done just now, and the open phase has paid for it.
        """
        if key not in self._once and cost is not None and self._stack:
            self.charge(cost)
        self._once.add(key)

    def work(self) -> dict[str, dict[str, int | None]]:
        """Encoder cost of this cell, as billed and as computed here."""
        billed = self.computed - self._cacheable + self._charges
        return {"billed": billed.counts(), "computed": self.computed.counts()}

    def timings(self) -> dict[str, Any]:
        """Per phase `billed` and `elapsed` seconds, their totals (wall clock), and the images."""
        phases = {
            name: {
                "billed": self._billed.get(name, Cost()).seconds(),
                "elapsed": self._elapsed.get(name, Cost()).seconds(),
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


class _KeySet:
    """Beginnings of digests, 16 bytes each: one cell may be charged for millions of views."""

    SIZE = 16

    def __init__(self) -> None:
        self._parts: list[Any] = []

    def add(self, keys: Any) -> Any:
        """(n,) bool: those of distinct keys that were not here; now they are."""
        new = np.ones(len(keys), bool)
        for part in self._parts:
            places = np.searchsorted(part, keys).clip(max=len(part) - 1)
            new &= part[places] != keys
        part = np.sort(keys[new])
        # Parts of falling sizes, so that there are few.
        while self._parts and len(self._parts[-1]) <= 2 * len(part):
            part = np.sort(np.concatenate([self._parts.pop(), part]), kind="stable")
        self._parts += [part] if len(part) else []
        return new


def _passed(seconds: Cost) -> Cost:
    """Seconds of a difference, not below zero; what encoders did is no part of it."""
    return Cost(max(0.0, seconds.wall), max(0.0, seconds.cpu))


def _add(costs: dict[str, Cost], name: str, cost: Cost) -> None:
    costs[name] = costs.get(name, Cost()) + cost
