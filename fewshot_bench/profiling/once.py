"""Work that depends on a backbone alone: done once, billed to every cell that uses it.

`once_for` is the entry point. Cached tensors live as long as their backbone.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fewshot_bench.profiling.cost import Cost, hold_on
from fewshot_bench.utils.devices import synchronize

Derived = Mapping[str, Sequence[Tensor]]
"""Tensors derived from a backbone, by name."""


class Bill(Protocol):
    """The bill of a cell; implemented by `Meter`."""

    def charge_once(self, key: object, cost: Cost | None) -> None:
        """Add a cost to the open phase if `key` is new; None for work that was just paid."""
        ...


@dataclass(frozen=True)
class _Kept:
    """Tensors computed for a backbone, and their price."""

    derived: Derived
    cost: Cost

    def bytes_on(self, device: torch.device) -> int:
        every = itertools.chain.from_iterable(self.derived.values())
        return sum(tensor.nbytes for tensor in every if tensor.device.type == device.type)


Key = tuple[int, str]
_LOCK = threading.RLock()
_KEPT: dict[Key, _Kept] = {}
_BILLS: list[Bill] = []
_IDLE: list[dict[Key, _Kept]] = []


def once_for(backbone: object, name: str, compute: Callable[[], Derived]) -> Derived:
    """The result of `compute` for a backbone, cached under `name`: computed once per process.

    Concurrent threads wait. Nothing is cached for a backbone without weak references.
    """
    key = (id(backbone), name)
    with _LOCK:
        kept = _KEPT.get(key)
        if kept is None:
            kept, paid = _compute(compute), None
            with suppress(TypeError):
                weakref.finalize(backbone, _KEPT.pop, key, None).atexit = False
                _KEPT[key] = kept
        else:
            paid = kept.cost
        for idle in _IDLE:
            idle.pop(key, None)
        if _BILLS:
            _BILLS[-1].charge_once(key, paid)
        return kept.derived


def _compute(compute: Callable[[], Derived]) -> _Kept:
    start = time.perf_counter(), time.process_time()
    derived = compute()
    every = itertools.chain.from_iterable(derived.values())
    for device in {tensor.device for tensor in every}:
        synchronize(device)
    spent = Cost(time.perf_counter() - start[0], time.process_time() - start[1])
    return _Kept(derived, spent)


def forget_derived() -> None:
    """Drop all cached results, after memory ran out."""
    with _LOCK:
        _KEPT.clear()


def bill_to(bill: Bill) -> AbstractContextManager[None]:
    """Charge results requested inside to `bill`."""
    return hold_on(_BILLS, bill)


@contextmanager
def idle_bytes(device: torch.device) -> Iterator[Callable[[], int]]:
    """Yield a function for the bytes of cached results on a device that were not used inside."""
    with _LOCK:
        idle = dict(_KEPT)
        _IDLE.append(idle)
    try:
        yield lambda: sum(values.bytes_on(device) for key, values in idle.items() if key in _KEPT)
    finally:
        with _LOCK:
            del _IDLE[next(i for i, values in enumerate(_IDLE) if values is idle)]
