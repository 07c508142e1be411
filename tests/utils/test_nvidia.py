"""Facts of NVIDIA's library, from a library and a card that are faked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewshot_bench.profiling.meter import Meter
from fewshot_bench.utils import nvidia

CARD = torch.device("cuda")


class Refused(Exception):
    """An error of the library."""


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A machine with one card, which uses half a joule between two readings."""
    used = iter(range(0, 10**9, 500))

    def find(uuid: str) -> str:
        if uuid != "GPU-1a2b":
            raise Refused
        return uuid

    made = SimpleNamespace(
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "550.54",
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=str,
        nvmlDeviceGetHandleByUUID=find,
        nvmlDeviceGetCudaComputeCapability=lambda card: (9, 0),
        nvmlDeviceGetTotalEnergyConsumption=lambda card: next(used),
        nvmlDeviceGetClockInfo=lambda card, clock: 1980,
        nvmlDeviceGetPerformanceState=lambda card: 0,
    )
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a2b")
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    forget()
    yield made
    forget()


def forget() -> None:
    """Have the library opened anew."""
    nvidia._library.cache_clear()
    nvidia._card.cache_clear()


def test_facts_of_a_card(library: SimpleNamespace) -> None:
    assert (nvidia.list_majors(), nvidia.driver_version()) == ({9}, "550.54")
    assert [nvidia.joules(CARD), nvidia.joules(CARD)] == [0.0, 0.5]
    assert nvidia.read_state(CARD) == {"sm_mhz": 1980, "power_state": 0}


def test_a_record_has_the_energy_of_each_phase(library: SimpleNamespace) -> None:
    meter = Meter(CARD)
    with meter.phase("fit"), meter.phase("encode_text"):
        pass
    timings = meter.timings()
    assert timings["phases"]["encode_text"]["joules"] == 0.5
    # From its start to that of the inner phase, and from the end of that one.
    assert timings["phases"]["fit"]["joules"] == 1.0
    assert timings["phases"]["predict"]["joules"] == 0.0
    state = {"sm_mhz": 1980, "power_state": 0}
    assert timings["card"] == {"first": state, "last": state}


def absent(library: Any) -> None:
    # As for a package that is not installed.
    sys.modules["pynvml"] = None  # type: ignore[assignment]


def broken(library: Any) -> None:
    def fail(*words: object) -> None:
        raise Refused

    names = [name for name in vars(library) if name.startswith("nvmlDevice")]
    vars(library).update(dict.fromkeys([*names, "nvmlSystemGetDriverVersion"], fail))


@pytest.mark.parametrize("how", [absent, broken])
def test_nothing_is_known_without_the_library_or_its_answers(
    library: SimpleNamespace, how: Any
) -> None:
    how(library)
    forget()
    assert (nvidia.list_majors(), nvidia.driver_version()) == (set(), "")
    assert (nvidia.joules(CARD), nvidia.read_state(CARD)) == (None, {})
    timings = Meter(CARD).timings()
    assert "card" not in timings
    assert set(timings["phases"]["fit"]) == {"billed", "elapsed"}


def test_other_devices_have_no_such_facts(library: SimpleNamespace) -> None:
    for kind in ("cpu", "mps"):
        assert nvidia.joules(torch.device(kind)) is None
        assert nvidia.read_state(torch.device(kind)) == {}


def test_a_mig_device_has_no_energy_of_its_own(
    library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = SimpleNamespace(uuid="of-a-part")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: part)
    assert nvidia.joules(CARD) is None
