"""Build small models of every family of backbones, with random weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from timm.layers import HybridEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor

from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import loading
from fewshot_bench.backbones.open_clip import OpenClipBackbone
from fewshot_bench.testing import quick
from fewshot_bench.utils.rng import isolate

SIZE, EMBED, WORDS, CONTEXT = 32, 48, 300, 12


SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


TEXTS: dict[str, dict[str, Any]] = {
    "siglip": SIGLIP | {"norm_kwargs": {"eps": 1e-6}},
    "siglip2": SIGLIP | {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
    "eva02": {},
    "mobileclip": {},
    "mobileclip-s": {"no_causal_mask": True},
    "dfn": {},
    "metaclip": {},
}


def siglip() -> torch.nn.Module:
    """SigLIP's: pooled by attention, no class token."""
    return VisionTransformer(
        SIZE, 8, embed_dim=EMBED, depth=3, num_heads=3, num_classes=0, class_token=False,
        global_pool="map", norm_layer=torch.nn.LayerNorm,
    )  # fmt: skip


def eva02() -> torch.nn.Module:
    """EVA02-CLIP's: rotary positions, separate q, k, v, gated MLP, norms within blocks."""
    return Eva(
        SIZE, 8, embed_dim=EMBED, depth=3, num_heads=3, num_classes=EMBED, global_pool="token",
        qkv_fused=False, mlp_ratio=8 / 3, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
        use_rot_pos_emb=True, ref_feat_shape=(4, 4),
    )  # fmt: skip


def mobileclip() -> torch.nn.Module:
    """MobileCLIP-B's: a stem of convolutions before the blocks."""
    stem = ConvStem(
        channels=(12, 12, EMBED), stride=(2, 2, 2), kernel_size=(2, 2, 2), padding=0,
        act_layer=torch.nn.GELU,
    )  # fmt: skip
    return VisionTransformer(
        SIZE, 1, embed_dim=EMBED, depth=3, num_heads=3, num_classes=EMBED, no_embed_class=True,
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
    )  # fmt: skip


def convolutions() -> torch.nn.Module:
    """MobileCLIP-S's: no transformer."""
    return timm.create_model("test_convnext", num_classes=EMBED)


TRUNKS: dict[str, Callable[[], torch.nn.Module]] = {
    "siglip": siglip,
    "siglip2": siglip,
    "eva02": eva02,
    "mobileclip": mobileclip,
    "mobileclip-s": convolutions,
}


class Words:
    """A tokenizer with one token per word, plus start and end tokens."""

    def __call__(self, texts: list[str]) -> Tensor:
        """Token ids (n, context), padded."""
        table = torch.zeros(len(texts), CONTEXT, dtype=torch.int64)
        for row, text in zip(table, texts, strict=True):
            ids = [1, *(2 + sum(map(ord, word)) % (WORDS - 4) for word in text.split()), WORDS - 1]
            row[: len(ids)] = torch.tensor(ids)
        return table


def backbone_of(family: str, precision: str = "fp32") -> OpenClipBackbone:
    """A small model of a family with random weights, norms and biases included."""
    text = {
        "context_length": CONTEXT,
        "vocab_size": WORDS,
        "width": EMBED,
        "heads": 3,
        "layers": 3,
        **TEXTS[family],
    }
    with isolate(0):
        if family in TRUNKS:
            vision = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none"}
            module: Any = open_clip.CustomTextCLIP(EMBED, vision | {"image_size": SIZE}, text)
            module.visual.trunk = TRUNKS[family]()
        else:
            vit = {"image_size": SIZE, "patch_size": 8, "width": EMBED, "head_width": 16}
            quick = family == "metaclip"
            module = open_clip.CLIP(EMBED, vit | {"layers": 3}, text, quick_gelu=quick)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    half = (0.5, 0.5, 0.5)
    transform = image_transform_v2(PreprocessCfg(size=SIZE, mean=half, std=half), is_train=False)
    return OpenClipBackbone(family, module.eval(), Words(), transform, precision=precision)


def pixels() -> Tensor:
    """Three random images."""
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


VISION = {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}


TEXT = {"width": 32, "heads": 2, "layers": 2}


MODEL: dict[str, Any] = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}


PREPROCESS = {"mean": [0.5] * 3, "std": [0.25] * 3}


WEIGHTS = "open_clip_model.safetensors"


def configure(folder: Path, **changes: Any) -> str:
    """Write the config of the small model with changes; returns the backbone's name."""
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": MODEL | changes, "preprocess_cfg": PREPROCESS}
    (folder / loading.CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"


SHORTER = {"coop": {"epochs": 2}, "tip-adapter-f": {"epochs": 2}}


# The architecture of RN50, with one block per stage.
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}


def short(name: str) -> Any:
    """The method with few training steps."""
    method = registry().method_class(name)()
    options: dict[str, Any] = SHORTER.get(name, {})
    return quick(method) if hasattr(method, "quick") else dataclasses.replace(method, **options)
