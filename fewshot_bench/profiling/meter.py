"""Billing of one cell: phases, their seconds, and the encoder work in them.

`Meter` holds the bill. Cache hits are billed at the original cost of their computation, so that
reported times do not depend on which cell ran first; `elapsed` is the time that really passed.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.profiling.cost import Cost, count, counting, telling
from fewshot_bench.utils import nvidia
from fewshot_bench.utils.devices import synchronize

PHASES = ("encode_support", "encode_text", "fit", "encode_queries", "predict")
# The most FLOPs per row that the layers of a head have: a share of the encoders' work for an image
# and at least a number, or a number where the work is unknown.
HEAD_SHARE, HEAD_LEAST, HEAD_MOST = 0.005, 5e5, 5e7
ENCODING = ("encode_support", "encode_text", "encode_queries")


class ImageCost:
    """Image-loading cost of one cell; cache hits are billed at their original price.

    elapsed: seconds until pixels were available. batches, late: number of batches asked for, and of
    those that were not ready then. decoded, cached: number of images decoded, and of images taken
    decoded from memory or disk. problem: why decoded images could not be cached. credit: how far
    the billed clock is ahead of the real one.
    """

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.batches = 0
        self.late = 0
        self.decoded = 0
        self.cached = 0
        self.problem = ""
        self.credit = Cost()
        self._charged: set[Hashable] = set()

    @contextmanager
    def unbilled(self) -> Iterator[None]:
        """Context of cache maintenance: its time counts as elapsed but is not billed."""
        start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            spent = Cost(time.perf_counter() - start[0], time.process_time() - start[1])
            self.elapsed += spent.wall
            self.credit -= spent

    def add_served(self, prices: Mapping[Hashable, Cost | None], serving: Cost) -> None:
        """Count served images; prices: original cost by image, None if decoded just now.

        The first time in a cell, a cached image is billed at its price instead of its share of
        `serving`.
        """
        fresh = [p for key, p in prices.items() if p is not None and key not in self._charged]
        hits = sum(price is not None for price in prices.values())
        self._charged.update(prices)
        self.decoded += len(prices) - hits
        self.cached += hits
        if fresh:
            self.credit += sum(fresh, Cost()) - serving.scale(len(fresh), hits)

    def to_dict(self) -> dict[str, Any]:
        """The entry of a record."""
        values: dict[str, Any] = {"elapsed": round(self.elapsed, 6)}
        values |= {"batches": self.batches, "late": self.late}
        values |= {"decoded": self.decoded, "cached": self.cached}
        return values | ({"problem": self.problem} if self.problem else {})


class Meter:
    """The bill of one cell by phase; nested phases are billed separately.

    views_encoded: of `images_encoded`, those that were augmented. layers: FLOPs of layers that no
    encoder counts (`watch_layers`).
    """

    def __init__(self, device: torch.device) -> None:
        self.images = ImageCost()
        self._device = device
        self._has_energy = nvidia.joules(device) is not None
        self._first = nvidia.read_state(device)
        self._billed: dict[str, Cost] = {}
        self._elapsed: dict[str, Cost] = {}
        self._stack: list[tuple[str, Cost, Cost]] = []
        self._charged = _KeySet()
        self.images_seen = 0
        self.images_encoded = 0
        self.views_encoded = 0
        self.images_computed = 0
        self.computed = Cost()
        self._cacheable = Cost()
        self._charges = Cost()
        self._once: set[object] = set()
        self.layers: dict[Hashable, int] = {}

    def _now(self) -> Cost:
        synchronize(self._device)
        joules = nvidia.joules(self._device) or 0.0 if self._has_energy else 0.0
        return Cost(time.perf_counter(), time.process_time(), joules=joules)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Bill the time inside to phase `name`, without the time of nested phases."""
        start, credit = self._now(), self.images.credit
        self._stack.append((name, Cost(), Cost()))
        try:
            yield
        finally:
            total = _clamp(self._now() - start)
            billed = _clamp(total + (self.images.credit - credit))
            _, inner, inner_billed = self._stack.pop()
            _add(self._elapsed, name, _clamp(total - inner))
            if name not in ENCODING:
                _add(self._billed, name, _clamp(billed - inner_billed))
            if self._stack:
                outer, spent, spent_billed = self._stack[-1]
                self._stack[-1] = (outer, spent + total, spent_billed + billed)

    def measure(self, work: Callable[[], Tensor], *, images: bool = True) -> tuple[Tensor, Cost]:
        """The result of `work` and its cost; with `images`, one row per encoded image."""
        start, done = self._now() + self.images.credit, Cost()
        with counting(done), telling(None):
            result = work()
        passed = (self._now() + self.images.credit) - start
        encoded = len(result) if images else 0
        if not done.images and encoded:
            # A plug-in's backbone that reports no work.
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

    def select_unbilled(self, keys: Any) -> Any:
        """(n,) bool: True for digests not yet charged to this cell; marks all as charged.

        keys: (n,) distinct digests, a numpy array of texts of 16 bytes or more.
        """
        return self._charged.add(keys.astype(f"S{_KeySet.SIZE}"))

    def charge(self, cost: Cost) -> None:
        """Add the price of shared work to the open phase."""
        self.images_encoded += cost.images
        self._charges.add(cost)
        _add(self._billed, self._stack[-1][0], cost)

    def charge_once(self, key: object, cost: Cost | None) -> None:
        """Bill work that is done once per backbone, the first time that a cell uses it.

        cost: None if it was done just now, as the open phase has then paid for it.
        """
        if key not in self._once and cost is not None and self._stack:
            self.charge(cost)
        self._once.add(key)

    def reuse(self) -> Meter:
        """A copy that bills the same, of which nothing was computed or took time here."""
        other = copy.deepcopy(self)
        other._charges = self.computed - self._cacheable + self._charges
        other.computed = Cost(unmetered=self.computed.unmetered)
        other._cacheable = dataclasses.replace(other.computed)
        other._elapsed, other.images_computed = {}, 0
        other.images, charged = ImageCost(), other.images._charged
        other.images._charged = charged
        return other

    @property
    def is_complete(self) -> bool:
        """False if code was handed an encoder whose work nothing meters, or had a network.

        A network is layers that cost more than those of a head.
        """
        billed = self._sum_billed()
        share = HEAD_SHARE * billed.flops / max(1, billed.images)
        allowed = HEAD_MOST if billed.uncounted else max(HEAD_LEAST, share)
        return sum(self.layers.values()) <= allowed and not self.computed.unmetered

    @property
    def images_billed(self) -> int | None:
        """Images that went through an encoder, as billed; None if that is not known."""
        return self.work()["billed"]["images"]

    def work(self) -> dict[str, dict[str, int | None]]:
        """Encoder cost of this cell, as billed and as computed here."""
        costs = {"billed": self._sum_billed(), "computed": self.computed}
        unknown = int(not self.is_complete)
        return {n: dataclasses.replace(c, unmetered=unknown).counts() for n, c in costs.items()}

    def _sum_billed(self) -> Cost:
        return self.computed - self._cacheable + self._charges

    def timings(self) -> dict[str, Any]:
        """Per phase `billed` and `elapsed` seconds, their wall-clock totals, and image loading.

        With an NVIDIA card, also `joules` per phase, and the card's state at both ends.
        """
        phases: dict[str, dict[str, Any]] = {
            name: {
                "billed": self._billed.get(name, Cost()).seconds(),
                "elapsed": self._elapsed.get(name, Cost()).seconds(),
            }
            for name in PHASES
        }
        card: dict[str, Any] = {}
        if self._has_energy:
            for name, phase in phases.items():
                phase["joules"] = round(self._elapsed.get(name, Cost()).joules, 3)
        if self._first:
            card = {"card": {"first": self._first, "last": nvidia.read_state(self._device)}}
        billed = sum(cost.wall for cost in self._billed.values())
        elapsed = sum(cost.wall for cost in self._elapsed.values())
        return {
            "phases": phases,
            "billed_seconds": round(billed, 6),
            "elapsed_seconds": round(elapsed, 6),
            "images": self.images.to_dict(),
            **card,
        }


class _KeySet:
    """A compact set of 16-byte digest prefixes, as a cell may be charged for millions of views."""

    SIZE = 16

    def __init__(self) -> None:
        self._parts: list[Any] = []

    def add(self, keys: Any) -> Any:
        """Add distinct keys (n,); returns (n,) bool, True for new ones."""
        new = np.ones(len(keys), bool)
        for part in self._parts:
            places = np.searchsorted(part, keys).clip(max=len(part) - 1)
            new &= part[places] != keys
        part = np.sort(keys[new])
        # Merge to keep few parts, of falling sizes.
        while self._parts and len(self._parts[-1]) <= 2 * len(part):
            part = np.sort(np.concatenate([self._parts.pop(), part]), kind="stable")
        self._parts += [part] if len(part) else []
        return new


def _clamp(seconds: Cost) -> Cost:
    """The seconds and energy of a difference, at least zero, without counts."""
    joules = max(0.0, seconds.joules)
    return Cost(max(0.0, seconds.wall), max(0.0, seconds.cpu), joules=joules)


def _add(costs: dict[str, Cost], name: str, cost: Cost) -> None:
    costs[name] = costs.get(name, Cost()) + cost
