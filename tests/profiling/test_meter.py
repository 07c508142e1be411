"""Billed, computed and measured costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fewshot_bench.api.record import Record
from fewshot_bench.profiling.cost import Cost
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.profiling.optimizer import ParameterObserver
from fewshot_bench.profiling.peak_memory import PeakMemory
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from tests.support.helpers import METHODS, cells, quick, wait_until

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    """All methods on one cell, one after the other in one session."""
    session = Session()
    specs = cells(*METHODS, options=quick(METHODS), shots=(2,))
    found = {spec.method: run_one(spec, session).record for spec in specs}
    assert {record.status for record in found.values()} == {"done"}
    return found


def test_a_hit_is_billed_at_the_price_of_the_miss(records: dict[str, Record]) -> None:
    first = records["zero-shot"].timings["phases"]["encode_queries"]
    assert first["billed"]["wall"] > 0
    for method in ("linear-probe", "tip-adapter", "tip-adapter-f", "coop"):
        later = records[method].timings["phases"]["encode_queries"]
        assert later["billed"] == first["billed"], method
        assert later["elapsed"]["wall"] < first["billed"]["wall"], method


def test_a_hit_on_disk_is_billed_too(tmp_path: Path) -> None:
    (spec,) = cells("zero-shot")
    one, other = (run_one(spec, Session(cache=tmp_path)) for _ in range(2))
    assert one.logits is not None
    assert other.logits is not None
    assert torch.equal(one.logits, other.logits)
    costs = [
        outcome.record.timings["phases"]["encode_queries"]["billed"] for outcome in (one, other)
    ]
    assert costs[0] == costs[1]
    assert one.record.footprint["images_encoded"] == 40
    assert other.record.footprint["images_encoded"] == 40


def test_trained_parameters_are_observed(records: dict[str, Record]) -> None:
    backbone, _ = Session().backbone(cells("zero-shot")[0])
    image, text = backbone.image_tower(), backbone.text_tower()
    rank, matrices, classes, shots = 2, 3, 10, 2
    expected = {
        "clip-lora": sum(t.layers * matrices * rank * 2 * t.width for t in (image, text)),
        "coop": 4 * text.width,
        "tip-adapter-f": classes * shots * backbone.embed_dim,
        "linear-probe": classes * (backbone.embed_dim + 1),
        "tip-adapter": 0,
        "zero-shot": 0,
    }
    found = {method: record.footprint["trained"] for method, record in records.items()}
    assert found == expected
    sources = {method: record.footprint["trained_source"] for method, record in records.items()}
    assert sources.pop("linear-probe") == "declared"
    assert set(sources.values()) == {"observed"}
    assert records["clip-lora"].footprint["steps"] == 2 * shots
    assert records["clip-lora"].footprint["stored"] >= expected["clip-lora"]


def test_totals_and_memory(records: dict[str, Record]) -> None:
    for record in records.values():
        phases = record.timings["phases"].values()
        billed = sum(phase["billed"]["wall"] for phase in phases)
        assert record.timings["billed_seconds"] == pytest.approx(billed, abs=1e-4)
        assert record.timings["elapsed_seconds"] > 0
        assert record.footprint["peak_memory_mb"] > 10
        assert record.footprint["backbone"] > 100_000
        assert 0 <= record.timings["images"]["elapsed"] <= record.timings["elapsed_seconds"]
    assert records["zero-shot"].timings["images"]["decoded"] == 40
    assert records["coop"].timings["images"]["decoded"] == 0


def test_inner_phases_are_not_billed_twice() -> None:
    meter = Meter(CPU)
    with meter.phase("fit"):
        time.sleep(0.05)
        with meter.phase("encode_support"):
            time.sleep(0.1)
            meter.charge(Cost(7.0, 6.0, 3))
        with meter.phase("encode_support"):
            meter.charge(Cost(1.0, 1.0))
        time.sleep(0.05)
    timings = meter.timings()
    fit, support = timings["phases"]["fit"], timings["phases"]["encode_support"]
    assert fit["elapsed"]["wall"] >= 0.1
    assert meter.images_encoded == 3
    assert fit["billed"] == fit["elapsed"]
    assert support["billed"] == {"wall": 8.0, "cpu": 7.0}
    assert support["elapsed"]["wall"] >= 0.1
    assert timings["billed_seconds"] == pytest.approx(8 + fit["billed"]["wall"], abs=1e-5)


def test_a_phase_that_raises_is_closed() -> None:
    meter = Meter(CPU)
    with pytest.raises(KeyError), meter.phase("fit"), meter.phase("encode_support"):
        raise KeyError
    with meter.phase("predict"):
        meter.charge(Cost(1.0, 1.0))
    assert meter.timings()["phases"]["predict"]["billed"]["wall"] >= 1


def test_only_parameters_with_a_gradient_count_and_once() -> None:
    observer = ParameterObserver()
    used, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(5))
    with observer.watch():
        for optimizer in (torch.optim.SGD([used, frozen], 0.1), torch.optim.AdamW([used], 0.1)):
            used.sum().backward()
            optimizer.step()
    used.sum().backward()
    torch.optim.SGD([used], 0.1).step()
    assert (observer.trained, observer.steps, observer.source) == (3, 2, "observed")


def test_peak_memory_sees_what_was_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = PeakMemory(CPU)
    with memory.watch():
        pass
    before = memory.megabytes
    looks, look = [], psutil.Process.memory_info

    def noted(process: psutil.Process) -> Any:
        looks.append(process)
        return look(process)

    monkeypatch.setattr(psutil.Process, "memory_info", noted)
    with memory.watch():
        block = torch.ones(64 * 2**20 // 4)
        begun = len(looks)
        wait_until(lambda: len(looks) >= begun + 2)
        del block
    assert memory.megabytes > before + 32
