"""Checksums of weights find what changed, wherever the weights are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewshot_bench.backbones.checksums import checksums
from fewshot_bench.backbones.embedded import load_tiny

CPU = torch.device("cpu")


def weights() -> list[Tensor]:
    """A matrix that is summed, and others that are read whole."""
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 96, generator=rng)
    flags = torch.tensor([True, False, True])
    return [matrix, torch.randn(96, generator=rng).bfloat16()[1:], torch.tensor(4.6), flags]


def swap(rows: Tensor, first: int, second: int) -> None:
    """Exchange two rows."""
    rows[[first, second]] = rows[[second, first]]


CHANGES: dict[str, Callable[[list[Tensor]], object]] = {
    "a value": lambda all_: all_[0].data[-1, -1].add_(1e-6),
    "its sign": lambda all_: all_[0].data[0, 0].neg_(),
    "two rows": lambda all_: swap(all_[0], 3, 4),
    "two columns": lambda all_: swap(all_[0].T, 0, 50),
    "all values": lambda all_: all_[0].mul_(1.0001),
    "a small one": lambda all_: all_[1].data[7].neg_(),
    "a number": lambda all_: all_[2].add_(1e-6),
    "a flag": lambda all_: all_[3].logical_not_(),
    "the order": lambda all_: all_.reverse(),
    "a shape": lambda all_: all_.__setitem__(0, all_[0].view(96, 300)),
    "a dtype": lambda all_: all_.__setitem__(3, all_[3].to(torch.uint8)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found(what: str) -> None:
    before, changed = weights(), weights()
    same, again = checksums([before, changed], CPU)
    assert same == again
    CHANGES[what](changed)
    assert checksums([before, changed], CPU)[1] != same


def test_groups_have_digests_of_their_own() -> None:
    one, other = weights()[:2], weights()[2:]
    assert checksums([one, [], other], CPU)[::2] == [
        checksums([part], CPU)[0] for part in (one, other)
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_tower_that_no_longer_holds_the_weights_is_found(precision: str) -> None:
    backbone = load_tiny(precision=precision)
    before = backbone.fingerprint()
    tower = backbone.image_tower()
    assert backbone.fingerprint() == before
    matrix = tower.blocks[0].parts["attn.in_proj_weight"]
    kept = matrix.clone()
    matrix.data[0, 0] += 1
    assert backbone.fingerprint() != before
    matrix.data.copy_(kept)
    assert backbone.fingerprint() == before


def test_a_tower_read_from_changed_weights_is_found() -> None:
    backbone = load_tiny(precision="bf16")
    before = backbone.fingerprint()
    weight = backbone.module.visual.proj
    kept = weight.detach().clone()
    weight.data.mul_(2)
    backbone.image_tower()
    weight.data.copy_(kept)
    assert backbone.fingerprint() != before
