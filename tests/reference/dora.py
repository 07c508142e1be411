"""DoRA's mathematics: m (W + s B A) / |W + s B A| in place of W (eq. 5), over full encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.backbones import Site
from tests.reference.encoders import Extra, image_features, text_features

Decomposition = Mapping[Site, tuple[Tensor, Tensor, Tensor]]
"""A (rank, d_in), B (d_out, rank) and m (d_out,) of every decomposed matrix."""


def frozen(module: Any, site: Site) -> Tensor:
    """Frozen W (d_out, d_in) of one site of an open_clip model."""
    tower = module.visual.transformer if site.encoder == "vision" else module.transformer
    block = tower.resblocks[site.layer]
    if site.matrix in "qkv":
        return block.attn.in_proj_weight.chunk(3)["qkv".index(site.matrix)].detach()
    layers = {"o": block.attn.out_proj, "fc": block.mlp.c_fc, "proj": block.mlp.c_proj}
    return layers[site.matrix].weight.detach()


def direction(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """W + s B A and its row norms (d_out,), constants in the backward pass (section 4.3)."""
    moved = weight + scaling * b @ a
    return moved, moved.detach().square().sum(dim=1).sqrt()


def changes(
    module: Any,
    encoder: str,
    parts: Decomposition,
    scaling: float,
    masks: Mapping[Site, Tensor],
    rate: float,
) -> Extra:
    """Change x (W' - W)' of an output; dropout multiplies the input of B A by mask / (1 - rate)."""

    def extra(layer: int, matrix: str, x: Tensor) -> Tensor | float:
        site = Site(encoder, layer, matrix)  # type: ignore[arg-type]
        if site not in parts:
            return 0.0
        a, b, magnitude = parts[site]
        weight = frozen(module, site)
        _, norm = direction(weight, a, b, scaling)
        dropped = x * masks[site] / (1 - rate) if site in masks else x
        return magnitude / norm * (x @ weight.T + scaling * dropped @ a.T @ b.T) - x @ weight.T

    return extra


def loss(
    module: Any,
    pixels: Tensor,
    labels: Tensor,
    tokens: Tensor,
    parts: Decomposition,
    scaling: float,
    masks: Mapping[Site, Tensor] | None = None,
    rate: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and logits (b, classes) of one batch."""
    made = {
        encoder: changes(module, encoder, parts, scaling, masks or {}, rate)
        for encoder in ("vision", "text")
    }
    texts = text_features(module, tokens, made["text"])
    logits = module.logit_scale.exp() * image_features(module, pixels, made["vision"]) @ texts.T
    return F.cross_entropy(logits, labels), logits


def fitted(
    module: Any,
    batches: list[tuple[Tensor, Tensor]],
    tokens: Tensor,
    parts: Decomposition,
    scaling: float,
    rate: float = 2e-4,
    last: float = 1e-6,
    decay: float = 1e-2,
) -> Decomposition:
    """Decomposition after one AdamW step per batch, with a cosine per step; m is not decayed."""
    kept = {
        site: tuple(x.detach().clone().requires_grad_() for x in p) for site, p in parts.items()
    }
    factors = [x for a, b, _ in kept.values() for x in (a, b)]
    groups = [{"params": factors}, {"params": [m for *_, m in kept.values()], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches), last)
    for pixels, labels in batches:
        optimizer.zero_grad()
        loss(module, pixels, labels, tokens, kept, scaling)[0].backward()  # type: ignore[arg-type]
        optimizer.step()
        schedule.step()
    return {site: tuple(x.detach() for x in p) for site, p in kept.items()}  # type: ignore[misc]
