"""Packed prompts: arbitrary lengths, lower memory, and cost counting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fsbench_methods.lora_layers import Dropout, LowRank, init_factors, tower_sites
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.backbones.packing import pack
from fewshot_bench.profiling.cost import Cost, count, count_backward, counting, not_counted
from tests.reference.toy import SIZE, random_backbone, relative_gap

TOLERANCE = 1e-5
CPU = torch.device("cpu")
PROMPTS = [f"a photo of a {' '.join(['cat'] * (1 + i % 9))}." for i in range(30)]


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


def adapter_of(backbone: Any, seed: int, dropout: float = 0.25) -> LowRank:
    """Random updates of q, k and v in both encoders."""
    rng = torch.Generator().manual_seed(seed)
    sites = []
    for encoder, tower in (("vision", backbone.image_tower()), ("text", backbone.text_tower())):
        sites += tower_sites(tower, encoder, range(tower.layers), "qkv")
    factors = init_factors(sites, 2, rng, CPU)
    for _, b in factors.values():
        b.data.normal_(std=0.1, generator=rng)
    drop = Dropout(dropout, torch.Generator().manual_seed(seed)) if dropout else None
    return LowRank(factors, 0.7, drop)


@given(
    prefix=st.integers(1, 6),
    ends=st.lists(st.integers(0, 12), min_size=1, max_size=40),
)
@settings(max_examples=60)
def test_every_token_stands_once_and_in_its_place(prefix: int, ends: list[int]) -> None:
    width = max(ends) + 1
    packing = pack(prefix, torch.tensor(ends), width)
    order = packing.order if packing.order is not None else torch.arange(len(ends))
    pooled = packing.layout.pooled[order] - prefix
    rows = packing.rows[pooled]
    assert rows.tolist() == [index * width + end for index, end in enumerate(ends)]
    assert packing.positions[pooled].tolist() == [prefix + end for end in ends]
    assert packing.tokens == prefix + len(packing.rows)
    assert len(set(packing.rows.tolist())) == len(packing.rows)
    needed = {index * width + place for index, end in enumerate(ends) for place in range(end + 1)}
    assert needed <= set(packing.rows.tolist())


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12), template=st.booleans())
@settings(max_examples=25)
def test_names_of_any_length_equal_open_clip(lengths: list[int], template: bool) -> None:
    backbone = _BACKBONE
    names = [" ".join(["cat"] * length) for length in lengths]
    tokens = backbone.tokenize([f"a photo of a {name}." if template else name for name in names])
    with torch.no_grad():
        theirs = backbone.module.encode_text(tokens)
    assert relative_gap(backbone.text_tower().encode_tokens(tokens), theirs) < TOLERANCE


_BACKBONE = random_backbone()


def test_recomputed_blocks_give_the_same_gradients(backbone: Any) -> None:
    text = backbone.text_tower()
    packed = text.pack_tokens(backbone.tokenize(PROMPTS))
    found = []
    for recompute in (False, True):
        adapter = adapter_of(backbone, 0)
        features = text.encode_packed(packed, adapter, recompute=recompute)
        features.square().sum().backward()
        assert adapter.dropout is not None
        after = torch.rand(1, generator=adapter.dropout.generator)
        grads = [parameter.grad for parameter in adapter.parameters()]
        gradients = [grad for grad in grads if grad is not None]
        found.append([features.detach(), after, *gradients])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
def test_flops_agree_with_torch(backbone: Any, recompute: bool) -> None:
    adapter, done = adapter_of(backbone, 0), Cost()
    text, vision = backbone.text_tower(), backbone.image_tower()
    packed = text.pack_tokens(backbone.tokenize(PROMPTS))
    pixels = torch.randn(4, 3, SIZE, SIZE)
    with counting(done), FlopCounterMode(display=False) as counter:
        loss = text.encode_packed(packed, adapter, recompute=recompute).square().sum()
        loss = loss + vision.encode(pixels, adapter, recompute=recompute).square().sum()
        loss.backward()
    # Toy widths: low-rank products are a few percent here, and attention counts differently.
    assert done.flops == pytest.approx(counter.get_total_flops(), rel=0.15)
    assert (done.images, done.text_tokens) == (4, packed.tokens)
    assert packed.tokens < 77 * len(PROMPTS) / 5


def test_work_is_told_to_all_who_listen() -> None:
    outer, inner = Cost(), Cost()
    x = torch.ones(2, requires_grad=True)
    with counting(outer):
        count(images=2, flops=5)
        with counting(inner):
            count(text_tokens=3)
            with not_counted():
                count(images=100)
        y = 2 * x
        count_backward(y, 7)
        y.sum().backward()
    assert outer == Cost(images=2, text_tokens=3, flops=12)
    assert inner == Cost(text_tokens=3)
    count(uncounted=1)
    assert outer.counts() == {"images": 2, "text_tokens": 3, "flops": 12}
    assert Cost(uncounted=1).counts()["flops"] is None
