"""A training step starts at most as many kernels as the official code, in every precision.

Ceilings are those of a ViT-B with 12 layers per encoder; they do not depend on widths.
"""

from __future__ import annotations

import pytest

from fewshot_bench.api.registry import registry
from tests.accelerator.launches import count_step

# What the layout needs, in float32 and bf16; the official code's kernels in float32 beside it.
MOST = {
    "coop": (402, 406),  # 638
    "cocoop": (416, 420),  # 644
    "kgcoop": (413, 417),  # 671
    "tcp": (433, 446),  # 686
    "prograd": (667, 674),  # 1,120
    "promptsrc": (972, 985),  # 1,223
    "maple": (806, 824),  # 1,060
    "mma": (865, 905),  # 1,158
    "mmrl": (766, 864),  # 1,130
    "clip-lora": (1059, 1073),  # 3,459
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MOST)
def test_kernels_of_a_step(name: str, precision: str) -> None:
    most = MOST[name][precision == "bf16"]
    assert count_step(registry().method_class(name)(), precision, classes=10).total <= most


@pytest.mark.parametrize("name", ["coop", "tcp"])
def test_the_number_of_classes_does_not_matter(name: str) -> None:
    method = registry().method_class(name)()
    few, many = (count_step(method, "fp32", classes) for classes in (10, 1000))
    assert few.operators == many.operators
