"""CLIP-LoRA's mathematics: W + s B A in every adapted matrix, over full encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.backbones import Site
from tests.reference.encoders import Extra, image_features, text_features

Factors = Mapping[Site, tuple[Tensor, Tensor]]


def updates(
    encoder: str, factors: Factors, scaling: float, masks: Mapping[Site, Tensor], rate: float
) -> Extra:
    """LoRA's update x (s B A)'; with a dropout mask, x is first multiplied by mask / (1 - rate)."""

    def extra(layer: int, matrix: str, x: Tensor) -> Tensor | float:
        site = Site(encoder, layer, matrix)  # type: ignore[arg-type]
        if site not in factors:
            return 0.0
        a, b = factors[site]
        dropped = x * masks[site] / (1 - rate) if site in masks else x
        return dropped @ (scaling * (b @ a)).T

    return extra


def loss(
    module: Any,
    pixels: Tensor,
    labels: Tensor,
    tokens: list[Tensor],
    factors: Factors,
    scaling: float,
    masks: Mapping[Site, Tensor] | None = None,
    rate: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and logits (b, classes) of one batch; `tokens` has one matrix per template."""
    text = updates("text", factors, scaling, masks or {}, rate)
    vision = updates("vision", factors, scaling, masks or {}, rate)
    per_template = [text_features(module, batch, text) for batch in tokens]
    classes = F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)
    logits = module.logit_scale.exp() * image_features(module, pixels, vision) @ classes.T
    return F.cross_entropy(logits, labels), logits


def merged_module(module: Any, factors: Factors, scaling: float) -> Any:
    """Add s B A to the weights of an open_clip model in place and return the model."""
    for site, (a, b) in factors.items():
        tower = module.visual.transformer if site.encoder == "vision" else module.transformer
        resblock = tower.resblocks[site.layer]
        width = resblock.attn.embed_dim
        with torch.no_grad():
            if site.matrix in "qkv":
                rows = slice("qkv".index(site.matrix) * width, None)
                resblock.attn.in_proj_weight[rows][:width] += scaling * b @ a
            else:
                target = {
                    "o": resblock.attn.out_proj,
                    "fc": resblock.mlp.c_fc,
                    "proj": resblock.mlp.c_proj,
                }
                target[site.matrix].weight += scaling * b @ a
    return module
