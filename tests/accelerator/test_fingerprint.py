"""The fingerprint of a backbone on an accelerator: sums there, and one read by the host."""

from __future__ import annotations

from typing import Any

import pytest

from fewshot_bench.backbones.embedded import load_tiny

DEVICE = "rehearsal:1"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_reads_once(precision: str, rehearsal: Any) -> None:
    backbone = load_tiny(DEVICE, precision)
    tower = backbone.image_tower()
    before = backbone.fingerprint()
    rehearsal.reset_counts()
    assert backbone.fingerprint() == before
    counts = rehearsal.counts(1)
    tensors = len([*backbone.module.parameters(), *backbone.module.buffers()])
    assert counts["reads"] == 1
    assert counts["launches"] < tensors
    tower.parameters()["projection"].data[0, 0] += 1
    assert backbone.fingerprint() != before
