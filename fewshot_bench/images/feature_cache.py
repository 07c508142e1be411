"""Content-addressed features, one row per image or prompt, shared by methods, shots and seeds.

`FeatureCache.rows` is the entry point. A row is identified by its context (weights, precision,
preprocessing ...) and its own key, and is kept in the store on disk, or in memory if the disk does
not take it. Each row is billed at its original cost, whoever computed it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.images.feature_files import (
    KEY,
    KINDS,
    Array,
    FeatureFiles,
    Form,
    Rows,
    Shard,
    pack_cost,
    unpack_cost,
)
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils.locks import once

MEMORY = 1 << 27
"""Maximum bytes of rows held in memory when they are not on the disk."""
AT_ONCE = 1 << 15
"""Rows looked up, computed and stored at a time; a multiple of an encoder's batch size."""
ROW_OVERHEAD = 256


@functools.lru_cache(maxsize=64)
def numbered(count: int) -> tuple[bytes, ...]:
    """Keys of rows that are identified only by their position in their context."""
    return tuple(number.to_bytes(KEY, "big") for number in range(count))


@dataclass(frozen=True)
class Origin:
    """Origin of rows, which determines their shard on disk.

    dataset, role: shown in listings. shared: the part of the context that all rows of the shard
    have in common; all of it by default. passing: one fit draws the rows for itself, so that they
    are kept only if there is room. images: one row per encoded image, else per prompt. whole: rows
    of one context are computed together or not at all.
    """

    dataset: str = ""
    role: str = ""
    shared: Mapping[str, Any] | None = None
    passing: bool = False
    images: bool = True
    whole: bool = False

    def shard(self, context: Mapping[str, Any]) -> Shard:
        """The shard of rows with this context."""
        shared = context if self.shared is None else self.shared
        digest = _digest({"shared": shared, "dataset": self.dataset, "role": self.role})
        return Shard(digest.hex()[:16], self.dataset, self.role, self.passing)


def _digest(values: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class _Call:
    """One call of `rows`: the digest of its context, and how to compute and store missing rows."""

    name: bytes
    origin: Origin
    shard: Shard
    compute: Callable[[list[int]], Tensor]
    meter: Meter
    files: FeatureFiles | None


class FeatureCache:
    """Rows in memory, and in the files of a folder that several processes may share."""

    def __init__(self, folder: Path | None, is_sound: Callable[[], bool] = lambda: True) -> None:
        """is_sound: returns False while new features must not be shared with other cells."""
        self._files = None if folder is None else FeatureFiles(folder)
        self._is_sound = is_sound
        self._memory = _Memory()

    def rows(
        self,
        context: Mapping[str, Any],
        keys: Sequence[bytes],
        compute: Callable[[list[int]], Tensor],
        meter: Meter,
        origin: Origin | None = None,
        *,
        lasting: bool = True,
    ) -> Tensor:
        """(n, width): the rows of `keys`, each billed once per cell at its original cost.

        The result may share memory with the cache and must not be changed.

        compute: maps indices in `keys` to features; called for missing rows, once per key, for at
        most `AT_ONCE` of them (all at once if the origin is `whole`). Rows that are not `lasting`
        stay in memory.
        """
        origin = origin or Origin()
        files = self._files if lasting else None
        call = _Call(_digest(context), origin, origin.shard(context), compute, meter, files)
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        features = self._gather(call, list(first), list(first.values()))
        if len(first) == len(keys):
            return features
        order = {key: row for row, key in enumerate(first)}
        return features[torch.tensor([order[key] for key in keys])]

    def _gather(self, call: _Call, keys: Sequence[bytes], places: Sequence[int]) -> Tensor:
        """(n, width) of distinct keys; places: their indices among the requested keys."""
        if call.origin.whole or len(keys) <= AT_ONCE:
            return self._part(call, keys, places)
        result = torch.empty(0)
        for start in range(0, len(keys), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            part = self._part(call, keys[rows], places[rows])
            if not start:
                result = part.new_empty(len(keys), part.shape[1])
            result[rows] = part
        return result

    def _part(self, call: _Call, keys: Sequence[bytes], places: Sequence[int]) -> Tensor:
        rows = Rows([hashlib.sha256(call.name + key).digest() for key in keys])
        self._fill(call, rows)
        computed = None
        if rows.lacking.any():
            folder = call.files.folder if call.files else None
            with once(folder, f"{call.name.hex()} {call.shard.name}"):
                self._fill(call, rows)
                if rows.lacking.any():
                    computed = self._compute(call, rows, places)
        _charge(rows, call.meter)
        if computed is not None:
            return computed
        assert rows.form is not None
        dtype: torch.dtype = getattr(torch, rows.form.dtype)
        return torch.from_numpy(rows.data).view(dtype)

    def _fill(self, call: _Call, rows: Rows) -> None:
        self._memory.fill(rows)
        if call.files is not None and rows.lacking.any():
            call.files.fill(call.shard, rows)

    def _compute(self, call: _Call, rows: Rows, places: Sequence[int]) -> Tensor | None:
        """Compute and keep missing rows; returns the features if all rows were computed."""
        if call.origin.whole:
            rows.lacking[:] = True
        lacking = np.flatnonzero(rows.lacking)
        wanted, sound = [places[row] for row in lacking.tolist()], self._is_sound()
        features, cost = call.meter.measure(lambda: call.compute(wanted), images=call.origin.images)
        features = features.detach().contiguous()
        dtype = str(features.dtype).removeprefix("torch.")
        block = _Block(
            keys=[rows.names[row] for row in lacking.tolist()],
            data=features.view(torch.uint8).numpy(),
            cost=pack_cost(cost, len(features)),
            form=Form(features.shape[1], dtype, dtype),
        )
        if sound and self._is_sound():
            self._keep(call, block)
        if len(lacking) == len(rows.names):
            rows.mark(lacking, block.cost)
            return features
        if not rows.takes(block.form):
            raise ValueError(f"features have the form {block.form}, and had {rows.form}")
        rows.put(lacking, block.data, block.cost)
        return None

    def _keep(self, call: _Call, block: _Block) -> None:
        """Keep a block on disk, or in memory if the disk does not take it."""
        kept = False
        if call.files is not None and block.form.dtype in KINDS:
            rows = block.keys, block.data, block.cost, block.form
            kept = call.files.add(call.shard, *rows)
        if not kept:
            self._memory.add(block, only_if_free=call.shard.passing)


def _charge(rows: Rows, meter: Meter) -> None:
    """Bill unbilled rows, each at an equal share of the cost of the computation that made it."""
    new = meter.select_unbilled(rows.keys).tolist()
    for packed, count in Counter(itertools.compress(rows.costs, new)).items():
        cost, together = unpack_cost(packed)
        meter.charge(cost.scale(count, together))


@dataclass(frozen=True, eq=False)
class _Block:
    """The rows (n, bytes) of one computation in memory."""

    keys: list[bytes]
    data: Array
    cost: bytes
    form: Form

    @property
    def size(self) -> int:
        return int(self.data.nbytes) + ROW_OVERHEAD * len(self.keys)


class _Memory:
    """The most recently used blocks of rows that fit into `MEMORY`."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[_Block, None] = OrderedDict()
        self._places: dict[bytes, tuple[_Block, int]] = {}
        self._size = 0

    def fill(self, rows: Rows) -> None:
        """Fill in the missing ones of `rows` that are in memory."""
        pairs_of: dict[_Block, list[tuple[int, int]]] = {}
        for index in np.flatnonzero(rows.lacking).tolist() if self._places else ():
            block, row = self._places.get(rows.names[index], (None, 0))
            if block is not None:
                pairs_of.setdefault(block, []).append((index, row))
        for block, pairs in pairs_of.items():
            self._blocks.move_to_end(block)
            if rows.takes(block.form):
                indices, numbers = np.array(pairs).T
                rows.put(indices, block.data[numbers], block.cost)

    def add(self, block: _Block, *, only_if_free: bool) -> None:
        """Keep a block, evicting the least recently used ones unless `only_if_free`."""
        if block.size > (MEMORY - self._size if only_if_free else MEMORY):
            return
        while self._size + block.size > MEMORY:
            oldest, _ = self._blocks.popitem(last=False)
            self._size -= oldest.size
            for key in oldest.keys:
                if self._places[key][0] is oldest:
                    del self._places[key]
        self._blocks[block] = None
        self._size += block.size
        self._places.update((key, (block, row)) for row, key in enumerate(block.keys))
