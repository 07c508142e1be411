"""Content-addressed features, one row per image or prompt, shared by methods, shots and seeds.

`FeatureCache.rows` is the entry point. A row is identified by its context (weights, precision,
preprocessing ...) and its own key, and is kept in the store on disk, or in memory if the disk does
not take it. Each row is billed at its original cost, whoever computed it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
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
    Origin,
    Rows,
    digest_values,
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
class _Request:
    """A question to `rows`: the digest of its context, and where missing rows come from."""

    context: bytes
    file_name: str
    origin: Origin
    compute: Callable[[list[int]], Tensor]
    meter: Meter
    lasting: bool


class FeatureCache:
    """Rows in memory, and in the files of a folder that several processes may share."""

    def __init__(self, folder: Path | None) -> None:
        self._files = None if folder is None else FeatureFiles(folder)
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
        name = origin.file_name(context)
        request = _Request(digest_values(context), name, origin, compute, meter, lasting)
        first: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            first.setdefault(key, index)
        distinct, indices = list(first), list(first.values())
        size = len(first) if origin.whole else AT_ONCE
        features = torch.empty(0)
        for start in range(0, len(first), max(1, size)):
            rows = slice(start, start + size)
            part = self._fetch(request, distinct[rows], indices[rows])
            if len(part) == len(keys):
                return part
            if not start:
                features = part.new_empty(len(first), part.shape[1])
            features[rows] = part
        if len(first) == len(keys):
            return features
        order = {key: row for row, key in enumerate(first)}
        return features[torch.tensor([order[key] for key in keys])]

    def _fetch(self, request: _Request, keys: Sequence[bytes], indices: Sequence[int]) -> Tensor:
        """(n, width) of distinct keys; indices: theirs among the requested keys."""
        rows = Rows([hashlib.sha256(request.context + key).digest() for key in keys])
        self._fill(request, rows)
        computed = None
        if rows.lacking.any():
            folder = self._files.folder if self._files and request.lasting else None
            name = request.file_name.partition(".")[0]
            with once(folder, f"{request.context.hex()} {name}"):
                self._fill(request, rows)
                if rows.lacking.any():
                    computed = self._compute(request, rows, indices)
        _charge(rows, request.meter)
        if computed is not None:
            return computed
        assert rows.form is not None
        dtype: torch.dtype = getattr(torch, rows.form.dtype)
        return torch.from_numpy(rows.data).view(dtype)

    def _fill(self, request: _Request, rows: Rows) -> None:
        self._memory.fill(rows)
        if self._files and request.lasting and rows.lacking.any():
            self._files.fill(request.file_name, request.origin, rows)

    def _compute(self, request: _Request, rows: Rows, indices: Sequence[int]) -> Tensor | None:
        """Compute and keep missing rows; returns the features if all rows were computed."""
        origin, meter = request.origin, request.meter
        if origin.whole:
            rows.lacking[:] = True
        lacking = np.flatnonzero(rows.lacking)
        wanted = [indices[row] for row in lacking.tolist()]
        features, cost = meter.measure(lambda: request.compute(wanted), images=origin.images)
        features = features.detach().contiguous()
        dtype = str(features.dtype).removeprefix("torch.")
        block = _Block(
            keys=[rows.names[row] for row in lacking.tolist()],
            data=features.view(torch.uint8).numpy(),
            cost=pack_cost(cost, len(features)),
            form=Form(features.shape[1], dtype, dtype),
        )
        kept = False
        if self._files and request.lasting and dtype in KINDS:
            values = block.keys, block.data, block.cost, block.form
            kept = self._files.add(request.file_name, origin, *values)
        if not kept:
            self._memory.add(block, only_if_free=origin.passing)
        if len(lacking) == len(rows.names):
            rows.mark(lacking, block.cost)
            return features
        if not rows.takes(block.form):
            raise ValueError(f"features have the form {block.form}, and had {rows.form}")
        rows.put(lacking, block.data, block.cost)
        return None


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
        self._rows: dict[bytes, tuple[_Block, int]] = {}
        self._size = 0

    def fill(self, rows: Rows) -> None:
        """Fill in the missing ones of `rows` that are in memory."""
        pairs_of: dict[_Block, list[tuple[int, int]]] = {}
        for index in np.flatnonzero(rows.lacking).tolist():
            block, row = self._rows.get(rows.names[index], (None, 0))
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
                if self._rows[key][0] is oldest:
                    del self._rows[key]
        self._blocks[block] = None
        self._size += block.size
        self._rows.update((key, (block, row)) for row, key in enumerate(block.keys))
