"""Devices of kinds that are not here: torch's modules of CUDA, XPU, MPS and others are faked."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewshot_bench.utils import devices

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR", "PYTORCH_ENABLE_MPS_FALLBACK"),
)
CUDA = "CUDA_VISIBLE_DEVICES"
FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
MACHINES = [("darwin", None, "1"), ("darwin", "0", "0"), ("linux", None, None)]
MIG = "MIG-1f5e,MIG-77aa"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str, **functions: Any) -> SimpleNamespace:
    """A module of a kind of device, which is torch's current accelerator."""
    module = SimpleNamespace(**functions)
    real = torch.get_device_module
    monkeypatch.setattr(
        torch, "get_device_module", lambda name: module if name == kind else real(name)
    )
    current = SimpleNamespace(type=kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: current)
    return module


def device(kind: str, index: int | None = None) -> Any:
    """Like a `torch.device`, of a kind that torch need not know."""
    return SimpleNamespace(type=kind, index=index)


def test_the_cpu_is_no_accelerator() -> None:
    cpu = torch.device("cpu")
    assert not devices.is_accelerator(cpu)
    assert devices.is_accelerator(torch.device("mps"))
    assert (devices.count_devices("cpu"), devices.count_devices("abacus")) == (1, 0)
    assert devices.has_bf16(["cpu"])
    devices.synchronize(cpu)
    assert not devices.reset_peak(cpu)
    assert devices.free_bytes(cpu) > 0
    tensor = torch.ones(2)
    assert devices.pin(tensor, cpu) is tensor


def test_kinds_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "abacus", device_count=lambda: 2)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    assert devices.accelerator_kind() == "abacus"
    assert devices.list_accelerators() == ["abacus", "xpu"]
    assert devices.count_devices("abacus") == 2


def test_no_accelerator_where_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", device_count=lambda: 0)
    assert (devices.accelerator_kind(), devices.list_accelerators()) == ("", [])

    def refuse() -> None:
        raise RuntimeError("Cannot access accelerator device when none is available.")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", refuse)
    assert devices.accelerator_kind() == ""


@pytest.mark.parametrize(
    ("name", "variables", "hip", "expected"),
    [
        ("cuda", {}, False, ("cuda", {})),
        ("cuda:1", {}, False, ("cuda", {"CUDA_VISIBLE_DEVICES": "1"})),
        *(
            (
                "cuda:1",
                {"CUDA_VISIBLE_DEVICES": given},
                False,
                ("cuda", {"CUDA_VISIBLE_DEVICES": own}),
            )
            for given, own in (("5, 7", "7"), ("GPU-a1,GPU-b2", "GPU-b2"), (MIG, "MIG-77aa"))
        ),
        ("cuda:1", {"ZE_AFFINITY_MASK": "4,5"}, False, ("cuda", {"CUDA_VISIBLE_DEVICES": "1"})),
        ("cuda:1", {}, True, ("cuda", {"HIP_VISIBLE_DEVICES": "1"})),
        (
            *("cuda:1", {"ROCR_VISIBLE_DEVICES": "2,GPU-f00"}, True),
            ("cuda", {"ROCR_VISIBLE_DEVICES": "GPU-f00"}),
        ),
        (
            *("cuda:1", {"HIP_VISIBLE_DEVICES": "0,3", "ROCR_VISIBLE_DEVICES": "4,5,6,7"}, True),
            ("cuda", {"HIP_VISIBLE_DEVICES": "3"}),
        ),
        (
            *("cuda:0", {"HIP_VISIBLE_DEVICES": "2,3", "CUDA_VISIBLE_DEVICES": "2,3"}, True),
            ("cuda", {"HIP_VISIBLE_DEVICES": "2", "CUDA_VISIBLE_DEVICES": "2"}),
        ),
        ("xpu:1", {}, False, ("xpu", {"ZE_AFFINITY_MASK": "1"})),
        ("xpu:1", {"ZE_AFFINITY_MASK": "0.0,0.1"}, False, ("xpu", {"ZE_AFFINITY_MASK": "0.1"})),
        ("xpu:1", {"ONEAPI_DEVICE_SELECTOR": "level_zero:2,3"}, False, ("xpu:1", {})),
        ("abacus:1", {"CUDA_VISIBLE_DEVICES": "5,7"}, False, ("abacus:1", {})),
        ("mps:0", {}, False, ("mps:0", {FALLBACK: "1"})),
        ("mps", {FALLBACK: "0"}, False, ("mps", {FALLBACK: "0"})),
    ],
)
def test_a_worker_sees_its_device_alone(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variables: dict[str, str],
    hip: bool,
    expected: tuple[str, dict[str, str]],
) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.2" if hip else None)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert devices.see_only(name) == expected


@pytest.mark.parametrize(("platform", "given", "set_to"), MACHINES)
def test_operators_that_mps_lacks(
    monkeypatch: pytest.MonkeyPatch, platform: str, given: str | None, set_to: str | None
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    # So that the variable is removed afterwards.
    monkeypatch.setenv(FALLBACK, "")
    monkeypatch.delenv(FALLBACK)
    if given is not None:
        monkeypatch.setenv(FALLBACK, given)
    devices.allow_fallback()
    assert os.environ.get(FALLBACK) == set_to


def test_each_mig_device_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", device_count=lambda: 1)
    assert devices.count_devices("cuda") == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIG)
    assert devices.count_devices("cuda") == 2
    pretend(monkeypatch, "cuda", device_count=lambda: 0)
    assert devices.count_devices("cuda") == 0


def test_bf16_of_nvidias_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(devices, "_ask_bf16", lambda *words: asked.append(words) or True)
    pretend(monkeypatch, "cuda", is_bf16_supported=lambda: pytest.fail("asked in this process"))
    monkeypatch.setattr(devices, "list_majors", lambda: {8, 9})
    assert devices.has_bf16(["cuda:0", "cuda:1"])
    monkeypatch.setattr(devices, "list_majors", lambda: {7})
    assert not devices.has_bf16(["cuda"])
    assert asked == []
    for majors in ({7, 9}, set()):
        monkeypatch.setattr(devices, "list_majors", lambda majors=majors: majors)
        assert devices.has_bf16(["cuda", "cuda:1"])
    assert asked == [("cuda", ["0", "1"])] * 2
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert devices.has_bf16(["cuda:1"])


def test_the_process_that_is_asked_for_bf16() -> None:
    """Without a card its module of CUDA fails, which means no bf16."""
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert not devices._ask_bf16("cuda", ["0"])


def test_16_bits_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    types = [torch.float16]
    pretend(monkeypatch, "abacus", get_amp_supported_dtype=lambda: types)
    assert (devices.has_bf16(["abacus:0"]), devices.has_fp16("abacus")) == (False, True)
    types[0] = torch.bfloat16
    assert (devices.has_bf16(["abacus:0"]), devices.has_fp16("abacus")) == (True, False)
    pretend(monkeypatch, "abacus")
    assert (devices.has_bf16(["abacus:0"]), devices.has_fp16("abacus")) == (False, False)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major < 14)
    assert (devices.has_bf16(["mps"]), devices.has_fp16("mps")) == (False, True)


def test_memory_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    pretend(
        monkeypatch,
        "xpu",
        reset_peak_memory_stats=seen.append,
        max_memory_allocated=lambda one: 7,
        mem_get_info=lambda one: (100, 200),
        memory_reserved=lambda one: 30,
        memory_allocated=lambda one: 10,
    )
    card = device("xpu", 1)
    assert devices.reset_peak(card)
    assert seen == [card]
    assert devices.peak_bytes(card) == 7
    assert devices.free_bytes(card) == 120


def test_a_device_that_counts_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_host_memory", lambda: 55)
    pretend(monkeypatch, "abacus", is_initialized=lambda: True)
    for name in ("reset_peak_memory_stats", "get_memory_info"):
        # As without any accelerator; other tests may have brought one.
        monkeypatch.delattr(torch.accelerator, name, raising=False)
    assert not devices.reset_peak(device("abacus"))
    assert devices.free_bytes(device("abacus")) == 55
    devices.empty_cache()
    pretend(
        monkeypatch,
        "mps",
        recommended_max_memory=lambda: 60,
        current_allocated_memory=lambda: 20,
    )
    assert not devices.reset_peak(device("mps"))
    assert devices.free_bytes(device("mps")) == 40


def test_waiting_for_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    pretend(monkeypatch, "xpu", synchronize=seen.append)
    devices.synchronize(device("xpu", 1))
    pretend(monkeypatch, "mps", synchronize=lambda: seen.append("mps"))
    devices.synchronize(device("mps"))
    pretend(monkeypatch, "abacus")
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda one: seen.append(one.type))
    devices.synchronize(device("abacus"))
    assert seen[1:] == ["mps", "abacus"]
    assert seen[0].index == 1


def test_a_device_without_events_is_waited_for_once_in_64(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    pretend(monkeypatch, "abacus", synchronize=waits.append)
    monkeypatch.setattr(devices, "_QUEUES", {})
    card = torch.device("cuda", 98)
    monkeypatch.setattr(devices, "synchronize", waits.append)
    events = []
    for _ in range(200):
        events.append(devices.record_event(card))
        while events and events[0].query():
            events.pop(0)
        assert len(events) <= 65
    assert 2 <= len(waits) <= 4
    events[-1].synchronize()
    assert all(event.query() for event in events)
    before = len(waits)
    events[0].synchronize()
    assert len(waits) == before


def test_a_device_with_events(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def current_stream(one: Any) -> Any:
        event = SimpleNamespace(query=lambda: False, synchronize=lambda: None)
        return SimpleNamespace(record_event=lambda: made.append(event) or event)

    monkeypatch.setattr(torch.accelerator, "current_stream", current_stream)
    monkeypatch.setattr(devices, "_QUEUES", {})
    event = devices.record_event(torch.device("cuda", 97))
    assert len(made) == 1
    assert not event.query()
    event.synchronize()


def test_events_that_nobody_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError("Backend doesn't support synchronizing events.")

    event = SimpleNamespace(query=lambda: True, synchronize=refuse)
    stream = SimpleNamespace(record_event=lambda: event)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda one: stream)
    waits: list[Any] = []
    monkeypatch.setattr(devices, "synchronize", waits.append)
    monkeypatch.setattr(devices, "_QUEUES", {})
    card = torch.device("cuda", 96)
    devices.record_event(card).synchronize()
    assert waits == [card]


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "xpu", get_device_name=lambda one: f"Max {one.index}")
    assert devices.device_name(device("xpu", 1)) == "Max 1"
    named = SimpleNamespace(name="A")
    pretend(monkeypatch, "abacus", get_device_properties=lambda one: named)
    assert devices.device_name(device("abacus")) == "A"
    pretend(monkeypatch, "mps")
    assert devices.device_name(device("mps")) == "mps"


def test_generators_with_a_state(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = [True]
    functions = {"is_initialized": lambda: ready[0], "device_count": lambda: 2}
    pretend(monkeypatch, "abacus", **functions, get_rng_state=lambda one: None)
    assert devices.list_generators() == ("abacus", [0, 1])
    ready[0] = False
    assert devices.list_generators()[1] == []
    pretend(monkeypatch, "abacus", **functions)
    assert devices.list_generators()[1] == []


def test_float64_stays_on_the_host_for_a_device_without_it() -> None:
    """`meta` stands for a device: its tensors have no values, and none can be read from it."""
    there = torch.device("meta")
    assert not devices.has_float64(torch.device("mps"))
    assert devices.place(torch.ones(2, dtype=torch.float64), there).device == there
    for dtype, moved in ((torch.float64, False), (torch.float32, True)):
        placed = SimpleNamespace(dtype=dtype, to=lambda device: "moved")
        assert (devices.place(placed, torch.device("mps")) == "moved") is moved  # type: ignore[arg-type]
