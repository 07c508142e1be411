"""What is asked of devices, also of those that lack float64, events, pinned memory or bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewshot_bench.api.defaults import precision_for
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.utils import devices
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.rng import isolate
from fewshot_bench.utils.transfer import send
from tests.support.helpers import cells, fsbench, quick
from tests.support.rehearsal import DEVICE, rehearse, ways

# Methods that solve something in float64, and one whose steps an observer reads.
METHODS = ("gda", "lp++", "proker", "linear-probe", "coop")
TWO = ("rehearsal:0", "rehearsal:1")


class NoFloat64(TorchDispatchMode):
    """TypeError where an operation makes a tensor in float64 on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in tree_leaves(made):
            if isinstance(part, Tensor) and (part.device.type, part.dtype) == WRONG:
                raise TypeError(f"{func} made float64 on {part.device}")
        return made


WRONG = ("rehearsal", torch.float64)


@pytest.mark.parametrize("name", METHODS)
def test_no_float64(rehearsal: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def has_float64(device: torch.device) -> bool:
        return device.type == "cpu"

    monkeypatch.setattr("fewshot_bench.training.steps.has_float64", has_float64)
    method = ways(registry().method_class(name)())[0]
    with NoFloat64():
        assert rehearse(method).error == ""


def test_float64_is_found_where_it_is(rehearsal: Any) -> None:
    with NoFloat64():
        assert "made float64" in rehearse(ways(registry().method_class("gda")())[0]).error


def run(spec: Any) -> Any:
    """The record of a cell, computed in this process on the second device."""
    outcome = run_one(spec, Session(device=DEVICE))
    assert outcome.record.status == "done", outcome.record.error
    return outcome.record


def test_records_of_a_device(rehearsal: Any) -> None:
    (spec,) = cells("coop", options=quick(("coop",)), devices=("rehearsal",))
    rehearsal.reset_peak_memory_stats(1)
    record = run(spec)
    assert record.environment["device_name"] == "rehearsal device on host memory"
    assert record.environment["tf32"] is False
    assert "peak_memory_of" not in record.footprint
    peak = rehearsal.max_memory_allocated(1) / 2**20
    assert 0 < record.footprint["peak_memory_mb"] <= peak + 0.1


def test_a_device_that_counts_no_memory_and_has_no_events(
    rehearsal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> None:
        raise NotImplementedError

    for name in ("memory_allocated", "memory_reserved", "mem_get_info"):
        monkeypatch.delattr(rehearsal, name)
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "get_device_name"):
        monkeypatch.setattr(rehearsal, name, refuse)
    for name in ("memory_allocated", "get_memory_info", "current_stream"):
        monkeypatch.setattr(torch.accelerator, name, refuse, raising=False)
    monkeypatch.setattr(Tensor, "pin_memory", refuse)
    monkeypatch.setattr(devices, "_QUEUES", {})
    (spec,) = cells("coop", options=quick(("coop",)), devices=("rehearsal",))
    record = run(spec)
    assert record.footprint["peak_memory_of"] == "host"
    # Of the resident set of a process that has imported torch.
    assert record.footprint["peak_memory_mb"] > 100
    assert devices._QUEUES[torch.device(DEVICE)].late
    assert send(torch.ones(2), torch.device(DEVICE)).tolist() == [1.0, 1.0]


def test_global_generators_of_devices(rehearsal: Any) -> None:
    before = [rehearsal.get_rng_state(index) for index in (0, 1)]
    drawn = []
    for _ in range(2):
        with isolate(3):
            drawn.append(torch.rand(4, device=DEVICE).tolist())
    assert drawn[0] == drawn[1]
    assert all(torch.equal(rehearsal.get_rng_state(i), state) for i, state in enumerate(before))


def test_facts_for_a_bug_report(rehearsal: Any) -> None:
    done = fsbench("env", "--format", "json")
    model = {"model": "rehearsal device on host memory"}
    assert json.loads(done.out)["accelerators"] == [{"device": name} | model for name in TWO]
    assert json.loads(done.out)["device"] == "rehearsal"


def test_precision_of_a_device(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    types: list[torch.dtype] = []
    monkeypatch.setattr(rehearsal, "get_amp_supported_dtype", lambda: types)
    monkeypatch.delattr(rehearsal, "is_bf16_supported")
    expected = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    for dtype, precision in expected.items():
        types.append(dtype)
        assert precision_for("auto", TWO, here=True) == precision
    with pytest.raises(UsageError, match="give --precision bf16"):
        precision_for("auto", TWO, here=False)


def test_the_engine_touches_no_device(rehearsal: Any, tmp_path: Path) -> None:
    rehearsal.reset_counts()
    before = [rehearsal.counts(index) for index in (0, 1)]
    few = ("-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "9")
    done = fsbench("run", *few, "--backbone", "tiny", "--dry-run", "--store", tmp_path / "none")
    assert "device rehearsal:0, rehearsal:1, precision bf16" in done.out
    refused = fsbench("run", *few, "--device", "rehearsal:2", "--store", tmp_path / "none")
    assert "this machine has cpu, rehearsal:0 and rehearsal:1" in refused.err
    assert [rehearsal.counts(index) for index in (0, 1)] == before
