"""Every built-in method gives the CPU's numbers on the fake device.

No training step makes the host wait for the device, nor does prediction beyond loading images.
`rehearsal.py` defines the rehearsal; `test_rehearsal_finds_faults.py` proves that it finds faults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch.testing import assert_close

from fewshot_bench.api.registry import registry
from tests.accelerator.rehearsal import on_host, rehearse, ways


def _ways() -> dict[str, list[Any]]:
    """Short variants of every built-in method, by its name."""
    catalog = registry().methods
    names = [name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")]
    return {name: ways(registry().method_class(name)()) for name in names}


WAYS = {
    name if number == 0 else f"{name}-{number}": method
    for name, methods in _ways().items()
    for number, method in enumerate(methods)
}


@pytest.mark.parametrize("way", WAYS)
def test_no_device_is_mixed_and_no_step_waits(way: str) -> None:
    seen = rehearse(WAYS[way])
    assert seen.faults() == []
    assert_close(seen.logits.host, on_host(WAYS[way]), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", [name for name, method in WAYS.items() if name == method.name])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits(name: str, precision: str) -> None:
    assert rehearse(WAYS[name], precision).faults() == []


def test_views_in_turn() -> None:
    method = replace(ways(registry().method_class("coop")())[0], class_views=1)
    assert rehearse(method).faults() == []


def test_after_memory_ran_out() -> None:
    method = replace(ways(registry().method_class("clip-lora")())[0], iterations=1)
    assert rehearse(method, "fp16", parts=4).faults() == []
