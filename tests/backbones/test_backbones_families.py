"""Six families of open_clip: features equal open_clip's, low-rank gradients equal plain ones.

Models are small, have random weights, and consist of the modules that open_clip builds for each.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.lora_layers import LowRank, init_factors, tower_sites
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from torch import Tensor
from torch.func import functional_call

from fewshot_bench.backbones import Edits, Prefix, Site, Tokens
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.utils.errors import UnsupportedBackboneError
from tests.reference.toy import relative_gap
from tests.support.families import (
    EMBED,
    SIZE,
    TRUNKS,
    backbone_of,
    pixels,
)

FAMILIES = ["siglip", "siglip2", "eva02", "mobileclip", "dfn", "metaclip"]
PROMPTS = ["a photo of a cat", "a dog", "one more photo of two small birds", "sea"]


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> OpenClipBackbone:
    """One backbone of each family."""
    return backbone_of(request.param)


def test_features_are_those_of_open_clip(backbone: OpenClipBackbone) -> None:
    ids = backbone.tokenize(PROMPTS)
    with torch.no_grad():
        images, texts = backbone.module.encode_image(pixels()), backbone.module.encode_text(ids)
        ours = backbone.image_tower().encode(pixels()), backbone.text_tower().encode_tokens(ids)
    assert relative_gap(ours[0], images) < 1e-6
    assert relative_gap(ours[1], texts) < 1e-6
    text = backbone.text_tower()
    for part in text.pack_tokens(ids).divide(2):
        assert relative_gap(text.encode_packed(part.packed), texts[part.members]) < 1e-6


def names_of(site: Site, known: set[str]) -> list[str]:
    """The parameters of open_clip or timm that hold a site's matrix."""
    trunk = any(name.startswith("visual.trunk") for name in known)
    if site.encoder == "text":
        before = "text.transformer" if trunk else "transformer"
    else:
        before = "visual.trunk" if trunk else "visual.transformer"
    timms = {"q": ["attn.qkv", "attn.q_proj"], "k": ["attn.qkv", "attn.k_proj"]}
    timms |= {"v": ["attn.qkv", "attn.v_proj"], "o": ["attn.proj"], "proj": ["mlp.fc2"]}
    timms |= {"fc": ["mlp.fc1", "mlp.fc1_g", "mlp.fc1_x"]}
    clips = {"o": ["attn.out_proj"], "fc": ["mlp.c_fc"], "proj": ["mlp.c_proj"]}
    if site.encoder == "vision" and trunk:
        candidates = [f"{before}.blocks.{site.layer}.{name}.weight" for name in timms[site.matrix]]
    else:
        inside = clips.get(site.matrix, ["attn.in_proj"])
        block = f"{before}.resblocks.{site.layer}"
        candidates = [f"{block}.{name}.weight" for name in inside]
        candidates += [f"{block}.attn.in_proj_weight"] if site.matrix in "qkv" else []
    return [name for name in candidates if name in known]


def merged(module: Any, adapter: LowRank) -> dict[str, Tensor]:
    """The model's parameters with s B A added, differentiable in A and B."""
    values = dict(module.named_parameters())
    changed: dict[str, Tensor] = {}
    for site, (a, b) in adapter.factors.items():
        delta, row = adapter.scaling * b @ a, 0
        for name in names_of(site, set(values)):
            weight = changed.get(name, values[name])
            size = min(len(weight), len(delta))
            joined = len(weight) == 3 * len(delta)
            start = "qkv".index(site.matrix) * size if joined else 0
            part = delta[row : row + size]
            padded = torch.cat(
                [
                    part.new_zeros(start, part.shape[1]),
                    part,
                    part.new_zeros(len(weight) - start - size, part.shape[1]),
                ]
            )
            changed[name], row = weight + padded, row + size
        assert row == len(delta), site
    return changed


@pytest.mark.parametrize("encoder", ["vision", "text"])
def test_gradients_of_low_rank_updates(backbone: OpenClipBackbone, encoder: Any) -> None:
    tower: Any = backbone.image_tower() if encoder == "vision" else backbone.text_tower()
    rng = torch.Generator().manual_seed(0)
    sites = tower_sites(tower, encoder, range(3), ("q", "k", "v", "o", "fc", "proj"))
    factors = init_factors(sites, 2, rng, torch.device("cpu"))
    for _, b in factors.values():
        b.data.normal_(std=0.1, generator=rng)
    adapter, ids = LowRank(factors, 0.7), backbone.tokenize(PROMPTS)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = backbone.module

        def forward(self) -> Any:
            if encoder == "vision":
                return self.module.encode_image(pixels())
            return self.module.encode_text(ids)

    def ours() -> Tensor:
        found: Tensor
        if encoder == "vision":
            found = tower.encode(pixels(), adapter)
        else:
            found = tower.encode_tokens(ids, adapter)
        return found

    def plain() -> Tensor:
        changed = {f"module.{n}": one for n, one in merged(backbone.module, adapter).items()}
        found: Tensor = functional_call(Encoder(), changed, ())
        return found

    found = []
    for compute in (ours, plain):
        features = compute()
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        found.append(
            [features, *torch.autograd.grad((features * weights).sum(), adapter.parameters())]
        )
    assert relative_gap(found[1][0], backbone_features(backbone, encoder, ids)) > 1e-2
    for one, other in zip(*found, strict=True):
        assert relative_gap(one, other) < 1e-5
    with torch.no_grad():
        deltas = tower.with_deltas(adapter.merged())
        done = deltas.encode(pixels()) if encoder == "vision" else deltas.encode_tokens(ids)
    assert relative_gap(done, found[1][0]) < 1e-5


def backbone_features(backbone: OpenClipBackbone, encoder: str, ids: Tensor) -> Tensor:
    """Features without updates."""
    found: Tensor
    if encoder == "vision":
        found = backbone.module.encode_image(pixels())
    else:
        found = backbone.module.encode_text(ids)
    return found


def test_trained_tensors_of_blocks_reach_the_features(backbone: OpenClipBackbone) -> None:
    tower = backbone.image_tower()
    moved = {n: one.clone().requires_grad_() for n, one in tower.parameters().items()}
    tower.with_parameters(moved).encode(pixels()).square().sum().backward()
    blocks = {name: one for name, one in moved.items() if name.startswith("blocks.")}
    assert len(blocks) >= 3 * 12
    assert all(one.grad is not None and bool(one.grad.any()) for one in blocks.values())


EVA = partial(
    Eva, SIZE, 8, embed_dim=EMBED, depth=2, num_heads=3, num_classes=EMBED, global_pool="token"
)  # fmt: skip


@pytest.mark.parametrize(
    ("trunk", "reason"),
    [
        (partial(EVA, swiglu_mlp=True), "its MLP is GluMlp"),
        (partial(EVA, use_rot_pos_emb=True, rope_type="mixed"), "turned differently in every"),
        (
            partial(
                VisionTransformerDistilled, SIZE, 8, embed_dim=EMBED, depth=2, num_heads=3,
                num_classes=EMBED,
            ),
            "a token of distillation",
        ),
    ],
    ids=["packed", "mixed", "distilled"],
)  # fmt: skip
def test_other_towers_of_timm_compute_their_own_features(
    monkeypatch: pytest.MonkeyPatch, trunk: Any, reason: str
) -> None:
    monkeypatch.setitem(TRUNKS, "eva02", trunk)
    backbone = backbone_of("eva02")
    with torch.no_grad():
        expected = backbone.module.encode_image(pixels())
    assert torch.equal(backbone.encode_image(pixels()), expected)
    with pytest.raises(UnsupportedBackboneError, match=reason):
        backbone.image_tower()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_blocks_that_normalize_behind_attention_compute_their_own_features(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """EVA02-E-14's have the parameters of the other EVA02-CLIP, and compute something else."""
    monkeypatch.setitem(TRUNKS, "eva02", partial(EVA, use_post_norm=True))
    backbone = backbone_of("eva02", precision)
    with torch.no_grad():
        expected = backbone.module.encode_image(pixels())
    assert relative_gap(backbone.encode_image(pixels()), expected) < 0.05
    with pytest.raises(UnsupportedBackboneError, match="computes something else"):
        backbone.image_tower()


def test_what_a_family_cannot_do_is_said() -> None:
    small = backbone_of("mobileclip-s")
    ids = small.tokenize(PROMPTS)
    texts = small.text_tower().encode_tokens(ids)
    assert relative_gap(texts, small.module.encode_text(ids)) < 1e-6
    with pytest.raises(UnsupportedBackboneError, match="has no transformer blocks"):
        small.image_tower()
    row = torch.randn(2, EMBED)
    with pytest.raises(UnsupportedBackboneError, match="looks both ways and at padding"):
        small.text_tower().pack_lengths(2, torch.tensor([1]), 3)
    with pytest.raises(UnsupportedBackboneError, match="that looks both ways"):
        small.text_tower().encode_tokens(ids, edits=Edits((Tokens(0, row),)))
    lip, eva = backbone_of("siglip").image_tower(), backbone_of("eva02").image_tower()
    for tower, edits, reason in (
        (lip, Edits((Tokens(0, row),)), "no class token"),
        (lip, Edits((Tokens(1, row, "end", "insert"),)), "pools over all tokens"),
        (lip, Edits(projected=False), "not a projection of rows"),
        (eva, Edits((Tokens(1, row, "end"),)), "turned by their place"),
    ):
        with pytest.raises(UnsupportedBackboneError, match=reason):
            tower.encode(pixels(), edits=edits)
    rows = Edits((Tokens(0, row, "end", "insert"), Tokens(1, row, "end")))
    assert lip.encode(pixels(), edits=rows).shape == (3, EMBED)


@pytest.mark.parametrize("family", FAMILIES[:4])
def test_prefixes_are_those_of_the_models_own_attention(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, layer = backbone_of(family), 1
    joint, alone = torch.randn(2, 3, 4, EMBED, generator=torch.Generator().manual_seed(2))
    gate, fused, calls = torch.tensor([0.5, -1.0, 2.0]), F.scaled_dot_product_attention, [0]

    def of_heads(x: Tensor) -> Tensor:
        return x.view(3, 4, 3, EMBED // 3).transpose(1, 2)

    def behind(q: Tensor, k: Tensor, v: Tensor, *more: Any, **named: Any) -> Tensor:
        calls[0] += 1
        if calls[0] != layer + 1:
            return fused(q, k, v, *more, **named)
        first, other = of_heads(joint), of_heads(alone)
        mixed = fused(q, torch.cat([first, k], 2), torch.cat([-first, v], 2))
        return mixed + gate[:, None, None] * fused(q, other, -other)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", behind)
        expected = backbone.module.encode_image(pixels())
    assert calls[0] >= 3
    edits = Edits(prefixes=(Prefix(layer, joint, -joint), Prefix(layer, alone, -alone, gate)))
    found = backbone.image_tower().encode(pixels(), edits=edits)
    assert relative_gap(found, expected) < 1e-5
    assert relative_gap(backbone.image_tower().encode(pixels()), expected) > 1e-3
