"""The layout of accelerators gives the numbers of the CPU's, forward and backward, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_bench.backbones import Edits, Site, Tokens
from fewshot_bench.training import memory
from tests.reference.toy import CLASSNAMES, CPU, SIZE, random_backbone, relative_gap
from tests.support.launches import names_of_imagenet
from tests.support.layout import use_accelerator_layout

WIDTH, LAYERS = 48, 3
NAMES = (*CLASSNAMES, "dog", "white dog")
PROMPTS = [f"a photo of a {name}." for name in NAMES]
TOLERANCE = 1e-5
Made = tuple[Tensor, list[Tensor]]


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=WIDTH, layers=LAYERS, quick_gelu=True)


def drawn(*shape: int) -> Tensor:
    values = 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.requires_grad_()


def learned(prefix: int, runs: int) -> Callable[[Any], Made]:
    """Prompts behind a context of `prefix` tokens; several contexts if there are `runs`."""

    def encode(backbone: Any) -> Made:
        tower, ids = backbone.text_tower(), backbone.tokenize(NAMES)
        suffix = tower.embed(ids[:, 1:33]).requires_grad_()
        context = drawn(*([runs] if runs else []), prefix, WIDTH)
        return tower.encode_embeddings(context, suffix, ids.argmax(-1) - 1), [context, suffix]

    return encode


def edited(*shape: int, mode: Any, prefix: int | None = None) -> Callable[[Any], Made]:
    """Prompts with the same rows, or rows of their own, written before two blocks."""

    def encode(backbone: Any) -> Made:
        rows = [drawn(*shape, WIDTH) for _ in range(2)]
        tokens = (Tokens(1, rows[0], mode=mode), Tokens(2, rows[1]))
        tower = backbone.text_tower()
        packed = tower.pack_tokens(backbone.tokenize(PROMPTS), prefix)
        return tower.encode_packed(packed, edits=Edits(tokens)), rows

    return encode


def images(backbone: Any) -> Made:
    """Images with rows at both places, of which one is of every image alone."""
    rows = [drawn(2, WIDTH), drawn(4, 3, WIDTH), drawn(2, WIDTH)]
    tokens = (Tokens(0, rows[0], "end", "insert"), Tokens(1, rows[1]), Tokens(2, rows[2], "end"))
    pixels = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return backbone.image_tower().encode(pixels, edits=Edits(tokens)), rows


def trained(backbone: Any) -> Made:
    """Every tensor of a tower."""
    tower = backbone.text_tower()
    tensors = {n: v.clone().requires_grad_() for n, v in tower.parameters().items()}
    packed = tower.pack_tokens(backbone.tokenize(PROMPTS))
    chosen = [v for n, v in tensors.items() if "blocks.2" in n or n == "positions"]
    return tower.with_parameters(tensors).encode_packed(packed), chosen


CASES = {
    "short context": learned(1, 0),
    "long context": learned(40, 0),
    "contexts": learned(5, 3),
    "longer prefix": edited(3, mode="insert"),
    "other prefix": edited(3, mode="replace"),
    "rows of each": edited(len(PROMPTS), 2, mode="replace", prefix=1),
    "more rows of each": edited(len(PROMPTS), 2, mode="insert"),
    "images": images,
    "all tensors": trained,
}


def found(case: str, backbone: Any) -> list[Tensor]:
    features, tensors = CASES[case](backbone)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    return [features, *torch.autograd.grad((features * weights).sum(), tensors)]


@pytest.mark.parametrize("case", CASES)
def test_layouts_agree(case: str, backbone: Any) -> None:
    expected = found(case, backbone)
    with pytest.MonkeyPatch.context() as patch:
        use_accelerator_layout(patch)
        ours = found(case, backbone)
    for one, other in zip(ours, expected, strict=True):
        assert relative_gap(one, other) < TOLERANCE


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_are_the_whole(parts: int, backbone: Any) -> None:
    tower = backbone.text_tower()
    packed = tower.pack_tokens(backbone.tokenize(PROMPTS))
    whole = tower.encode_packed(packed)
    for part in packed.divide(parts):
        assert relative_gap(tower.encode_packed(part.packed), whole[part.members]) < TOLERANCE


@pytest.mark.usefixtures("layout")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_small_update_survives_16_bits(precision: str) -> None:
    tower = random_backbone(precision, width=WIDTH, layers=1).text_tower()
    site = Site("text", 0, "o")
    whole = tower.weight(site)
    assert whole.dtype == torch.float32
    # A twentieth of the distance of neighbors in 16 bits: one in twenty entries moves by all of it.
    rounded = tower.blocks[0].weight("o")
    delta = 0.05 * torch.finfo(rounded.dtype).eps * whole.abs().mean() * torch.ones_like(whole)
    merged = tower.with_deltas({site: delta})
    assert torch.equal(merged.weight(site), whole + delta)
    assert torch.equal(merged.blocks[0].weight("o"), (whole + delta).to(rounded.dtype))
    moved = (merged.blocks[0].weight("o").float() - rounded.float()).mean() / delta.mean()
    assert 0.3 < moved < 3


@pytest.mark.usefixtures("layout")
def test_trained_values_start_at_float32(backbone: Any) -> None:
    low = random_backbone("bf16", width=WIDTH, layers=LAYERS, quick_gelu=True)
    for tower, exact in (
        (low.text_tower(), backbone.text_tower()),
        (low.image_tower(), backbone.image_tower()),
    ):
        own, other = tower.parameters(), exact.parameters()
        assert all(torch.equal(value, other[name]) for name, value in own.items())
        scale = (own["blocks.1.ln_1.weight"] + 1e-4).requires_grad_()
        moved = tower.with_parameters({"blocks.1.ln_1.weight": scale})
        assert moved.blocks[1].parts["ln_1.weight"] is scale
        assert moved.blocks[1].parts["ln_1.bias"].dtype == torch.float32


def test_an_accelerator_keeps_frozen_tensors_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    use_accelerator_layout(monkeypatch)
    backbone = random_backbone("bf16", width=WIDTH, layers=1)
    for tower in (backbone.text_tower(), backbone.image_tower()):
        own = replace(tower, exact=None).parameters()
        wide = {name for name, value in own.items() if value.dtype != torch.bfloat16}
        assert wide == tower.in_float32 & set(own)


def test_the_estimate_of_activations_counts_padded_slots(
    backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_accelerator_layout(monkeypatch)
    tower, ids = backbone.text_tower(), backbone.tokenize(names_of_imagenet()[:100])
    end, prefix, kept = ids.argmax(-1) - 1, 17, {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    packing = tower.pack_lengths(prefix, end, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tower.encode_embeddings(drawn(prefix, WIDTH), tower.embed(ids[:, 1:33]), end, packing)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    monkeypatch.setattr(memory, "count_sharers", lambda: 1)
    for factor, short in ((1.0, True), (1.6, False)):
        free = factor * size / memory.MEMORY_SHARE
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        tokens, slots = packing.tokens, packing.slots
        assert memory.must_recompute(tower, tokens, CPU, slots=slots) == short
