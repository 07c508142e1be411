"""A training step starts at most as many kernels as the official code, in every precision.

Ceilings are those of a ViT-B with 12 layers per encoder; they do not depend on widths.
"""

from __future__ import annotations

from typing import Any

import pytest

from fewshot_bench.api.registry import registry
from tests.support.launches import count_step

# What the layout needs, in float32 and bf16; the official code's kernels in float32 beside it.
MOST = {
    "coop": (413, 417),  # 638
    "cocoop": (427, 431),  # 644
    "kgcoop": (424, 428),  # 671
    "tcp": (444, 457),  # 686
    "prograd": (689, 696),  # 1,120
    "promptsrc": (851, 862),  # 1,223
    "maple": (817, 835),  # 1,060
    "mma": (871, 909),  # 1,158
    "mmrl": (772, 867),  # 1,130
    "clip-lora": (1070, 1084),  # 2,046
    "dora": (1710, 1828),  # 3,606
    "adalora": (1158, 1172),  # 7,669
    "clip-svd": (1682, 1688),  # 1,752
    "full-ft": (469, 558),  # 595
    "ln-tuning": (718, 874),  # 954, as the first stage of 2sfs
    "2sfs": (718, 874),  # 954
    "second stage of 2sfs": (159, 187),  # 197
    "bitfit": (824, 998),  # 1,052
    "plot++": (787, 792),  # 1,033
    "ivlp": (810, 821),  # 1,038
    "vpt-deep": (379, 384),  # 532
    "vpt-shallow": (324, 329),  # 488
}


# Heads on frozen features, of which the official code encodes those of most methods in every step;
# that is left out here.
MOST_OF_HEADS = {
    "tip-adapter-f": 21,  # 31
    "ape-t": 29,
    "clip-adapter": 40,  # 42
    "taskres": 30,  # 36
    "zs-lp": 28,  # 28
    "clap": 38,  # 40
    "lp++": 15,  # 18
    "prolip": 37,  # 39
    "cross-modal": 10,  # 19
    "wise-ft": 10,  # 19
}


def method_of(name: str) -> Any:
    """The method; its second stage from the second step on, where asked for."""
    kind = registry().method_class(name.rpartition(" ")[2])
    return kind() if kind.name == name else kind(share=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MOST)
def test_kernels_of_a_step(name: str, precision: str) -> None:
    most = MOST[name][precision == "bf16"]
    assert count_step(method_of(name), precision, classes=10).total <= most


MANY = {name: 100 for name in MOST if name != "promptsrc"} | {"coop": 1000, "tcp": 1000}
"""Classes of methods; `promptsrc` encodes 60 prompts of each before its first step."""


@pytest.mark.parametrize("name", MANY)
def test_the_number_of_classes_does_not_matter(name: str) -> None:
    assert count_step(method_of(name), classes=MANY[name]).total <= MOST[name][0]


@pytest.mark.parametrize("name", MOST_OF_HEADS)
def test_kernels_of_a_step_of_a_head(name: str) -> None:
    for classes in (10, 100):
        assert count_step(method_of(name), classes=classes).total <= MOST_OF_HEADS[name]
