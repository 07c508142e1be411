"""Work done once per backbone: its billing, and its memory."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import torch

from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.once import bill_to, forget_derived, idle_bytes, once_for
from fewshot_bench.runner.fit import release

CPU = torch.device("cpu")


class Backbone:
    """A backbone stand-in that work is cached for."""


class Work:
    """Computes tensors of 4 MiB, and counts the calls."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self) -> dict[str, tuple[torch.Tensor, ...]]:
        self.done += 1
        return {"a": (torch.ones(2**20),)}


def test_it_is_done_once_for_each_backbone_and_name() -> None:
    work, one, other = Work(), Backbone(), Backbone()
    first = once_for(one, "x", work)
    assert once_for(one, "x", work) is first
    assert work.done == 1
    once_for(one, "y", work)
    once_for(other, "x", work)
    assert work.done == 3


def test_it_goes_with_its_backbone() -> None:
    backbone: Any = Backbone()
    held = weakref.ref(once_for(backbone, "x", Work())["a"][0])
    assert held() is not None
    del backbone
    gc.collect()
    assert held() is None


def test_memory_that_has_run_out_ends_it() -> None:
    work, backbone = Work(), Backbone()
    once_for(backbone, "x", work)
    release(MemoryError())
    once_for(backbone, "x", work)
    assert work.done == 2


def test_threads_wait_for_the_one_that_computes() -> None:
    work, backbone, inside, go = Work(), Backbone(), threading.Event(), threading.Event()

    def slow() -> dict[str, tuple[torch.Tensor, ...]]:
        inside.set()
        assert go.wait(60)
        return work()

    threads = [threading.Thread(target=once_for, args=(backbone, "x", slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert inside.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert work.done == 1


def test_a_later_cell_is_billed_what_the_first_one_paid() -> None:
    backbone, meters = Backbone(), [Meter(CPU), Meter(CPU)]

    def slow() -> dict[str, tuple[torch.Tensor, ...]]:
        start = time.process_time()
        while time.process_time() < start + 0.05:
            pass
        return {}

    for meter in meters:
        with bill_to(meter), meter.phase("fit"):
            once_for(backbone, "x", slow)
            once_for(backbone, "x", slow)
    first, later = (meter.timings()["phases"]["fit"] for meter in meters)
    assert first["billed"] == first["elapsed"]
    assert 0.05 <= later["billed"]["cpu"] < 0.09
    assert later["elapsed"]["cpu"] < 0.05


def test_memory_of_what_a_cell_has_not_asked_for_is_not_its_own() -> None:
    forget_derived()
    backbone = Backbone()
    once_for(backbone, "x", Work())
    with idle_bytes(CPU) as idle:
        assert idle() == 4 * 2**20
        once_for(backbone, "x", Work())
        assert idle() == 0
    with idle_bytes(torch.device("cuda")) as idle:
        assert idle() == 0


def test_costs_that_were_charged_are_not_charged_again() -> None:
    meter = Meter(CPU)
    with meter.phase("fit"):
        meter.charge_once("a", None)
        meter.charge_once("a", Cost(50.0, 50.0))
        meter.charge_once("b", Cost(8.0, 7.0))
        meter.charge_once("b", Cost(8.0, 7.0))
    billed = meter.timings()["phases"]["fit"]["billed"]
    assert 8 <= billed["wall"] < 50
    assert 7 <= billed["cpu"] < 50
