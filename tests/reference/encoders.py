"""CLIP's two encoders written out: all 77 tokens, one head at a time, nothing skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Extra = Callable[[int, str, Tensor], Tensor | float]
"""(layer, matrix, input) to what is added to the product at that matrix."""


def nothing(layer: int, matrix: str, x: Tensor) -> float:
    """No update anywhere."""
    return 0.0


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """softmax(q k' / sqrt(d)) v, head by head; q, k, v are (n, length, width)."""
    size = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / size**0.5
        if mask is not None:
            scores = scores + mask
        outputs.append(scores.softmax(dim=-1) @ v[..., part])
    return torch.cat(outputs, dim=-1)


def block(x: Tensor, module: Any, layer: int, mask: Tensor | None, extra: Extra) -> Tensor:
    """One pre-norm residual attention block."""
    width, attn = x.shape[-1], module.attn
    weights, biases = attn.in_proj_weight.split(width), attn.in_proj_bias.split(width)
    normed = module.ln_1(x)
    q, k, v = (
        normed @ weight.T + bias + extra(layer, name, normed)
        for name, weight, bias in zip("qkv", weights, biases, strict=True)
    )
    mixed = attention(q, k, v, attn.num_heads, mask)
    x = x + attn.out_proj(mixed) + extra(layer, "o", mixed)
    normed = module.ln_2(x)
    hidden = module.mlp.gelu(module.mlp.c_fc(normed) + extra(layer, "fc", normed))
    return x + module.mlp.c_proj(hidden) + extra(layer, "proj", hidden)


def image_features(module: Any, pixels: Tensor, extra: Extra = nothing) -> Tensor:
    """(b, embed) unit features of preprocessed pixels."""
    visual = module.visual
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([start, patches], dim=1) + visual.positional_embedding)
    for layer, resblock in enumerate(visual.transformer.resblocks):
        x = block(x, resblock, layer, None, extra)
    return F.normalize(visual.ln_post(x)[:, 0] @ visual.proj, dim=-1)


def embedded_text_features(
    module: Any, embedded: Tensor, end: Tensor, extra: Extra = nothing
) -> Tensor:
    """(n, embed) unit features of token embeddings (n, 77, width) read at `end` (n,)."""
    x = embedded + module.positional_embedding
    mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    for layer, resblock in enumerate(module.transformer.resblocks):
        x = block(x, resblock, layer, mask, extra)
    x = module.ln_final(x)
    return F.normalize(x[torch.arange(len(x)), end] @ module.text_projection, dim=-1)


def text_features(module: Any, tokens: Tensor, extra: Extra = nothing) -> Tensor:
    """(n, embed) unit features of token ids (n, 77)."""
    return embedded_text_features(
        module, module.token_embedding(tokens), tokens.argmax(dim=-1), extra
    )
