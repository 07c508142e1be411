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


def _builtin() -> list[Any]:
    catalog = registry().methods
    names = [name for name in catalog.names() if catalog.find(name).origin.startswith("fewshot")]
    return [
        pytest.param(way, id=name if number == 0 else f"{name}-{number}")
        for name in names
        for number, way in enumerate(ways(registry().method_class(name)()))
    ]


@pytest.mark.parametrize("method", _builtin())
def test_no_device_is_mixed_and_no_step_waits(method: Any) -> None:
    seen = rehearse(method)
    assert seen.faults() == []
    assert_close(seen.logits.host, on_host(method), rtol=1e-4, atol=1e-3)
    # bf16 is rehearsed only for methods that encode; one frozen-feature method is tested below.
    if seen.encodes and method == ways(type(method)())[0]:
        assert rehearse(method, "bf16").faults() == []
        assert rehearse(method, "fp16").faults() == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_frozen_features_in_16_bits(precision: str) -> None:
    method = ways(registry().method_class("lp++")())[0]
    assert rehearse(method, precision).faults() == []


def test_views_in_turn() -> None:
    method = replace(ways(registry().method_class("coop")())[0], class_views=1)
    assert rehearse(method).faults() == []


def test_after_memory_ran_out() -> None:
    method = replace(ways(registry().method_class("clip-lora")())[0], iterations=1)
    assert rehearse(method, "fp16", parts=4).faults() == []
