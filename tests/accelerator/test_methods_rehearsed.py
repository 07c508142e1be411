"""Every built-in method gives the CPU's numbers on this machine's accelerator, or on a stand-in.

No training step makes the host wait for the device, nor does prediction beyond loading images.
`rehearsal.py` defines the rehearsal; `test_rehearsal.py` proves that it finds faults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch.testing import assert_close

from tests.support.rehearsal import (
    DEVICE,
    NAMES,
    WAYS,
    Rehearsal,
    on_host,
    rehearse,
    tolerance,
)

pytestmark = pytest.mark.gpu


def gap(seen: Rehearsal, method: Any) -> float:
    """The mean gap of logits to those of the CPU in float32, relative to their spread."""
    expected = on_host(method)
    return float((seen.logits.cpu().float() - expected).abs().mean() / expected.std())


@pytest.mark.parametrize("way", WAYS)
def test_no_device_is_mixed_and_no_step_waits(way: str, accelerator: str) -> None:
    method = WAYS[way]
    seen = rehearse(method, device=accelerator)
    assert seen.faults() == []
    if getattr(method, "dropout", 0):
        # Masks are of other shapes there, where a CPU's layout has padding.
        method = replace(method, dropout=0)
        seen = rehearse(method, device=accelerator)
    assert gap(seen, method) < tolerance(method.name, "fp32")
    if accelerator == DEVICE:
        # Sums in the layout of accelerators have another order, and the first steps of AdamW are
        # as large for small gradients as for large ones.
        assert_close(seen.logits.cpu(), on_host(method), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits(name: str, precision: str, accelerator: str) -> None:
    seen = rehearse(WAYS[name], precision, device=accelerator)
    assert seen.faults() == []
    assert gap(seen, WAYS[name]) < tolerance(name, precision)


def test_views_in_turn(accelerator: str) -> None:
    method = replace(WAYS["coop"], class_views=1)
    assert rehearse(method, device=accelerator).faults() == []


def test_after_memory_ran_out(accelerator: str) -> None:
    method = replace(WAYS["clip-lora"], iterations=1)
    assert rehearse(method, "fp16", parts=4, device=accelerator).faults() == []
