"""CLIP's two encoders written out: all 77 tokens, one head at a time, nothing skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Extra = Callable[[int, str, Tensor], Tensor | float]
"""(layer, matrix, input) to what is added to the product at that matrix."""
Before = Callable[[int, Tensor], Tensor]
"""(layer, sequences (n, length, width)) to the sequences that enter the block."""
Branched = Callable[[int, str, Tensor, Tensor], Tensor | float]
"""(layer, point, normalized input, output) to what is added to the output of that part."""


Attend = Callable[[int, Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
"""(layer, q, k, v, heads, mask) to what attention mixes."""
Scaled = Callable[[int, str, Tensor], Tensor]
"""(layer, place, values there) to these values, scaled."""


def nothing(layer: int, matrix: str, x: Tensor) -> float:
    """No update anywhere."""
    return 0.0


def unchanged(layer: int, x: Tensor) -> Tensor:
    """Return the sequences unchanged."""
    return x


def no_branch(layer: int, point: str, normed: Tensor, output: Tensor) -> float:
    """No branch anywhere."""
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


def plain_attention(
    layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None
) -> Tensor:
    """Attention without a prefix."""
    return attention(q, k, v, heads, mask)


def unscaled(layer: int, place: str, x: Tensor) -> Tensor:
    """Return the values unchanged."""
    return x


def block(
    x: Tensor,
    module: Any,
    layer: int,
    mask: Tensor | None,
    extra: Extra,
    branch: Branched = no_branch,
    attend: Attend = plain_attention,
    scaled: Scaled = unscaled,
) -> Tensor:
    """One pre-norm residual attention block."""
    width, attn = x.shape[-1], module.attn
    weights, biases = attn.in_proj_weight.split(width), attn.in_proj_bias.split(width)
    first = module.ln_1(x)
    q, k, v = (
        scaled(layer, name, first @ weight.T + bias + extra(layer, name, first))
        for name, weight, bias in zip("qkv", weights, biases, strict=True)
    )
    mixed = scaled(layer, "heads", attend(layer, q, k, v, attn.num_heads, mask))
    attended = attn.out_proj(mixed) + extra(layer, "o", mixed)
    x = x + attended + branch(layer, "attn", first, attended)
    normed = module.ln_2(x)
    hidden = module.mlp.gelu(module.mlp.c_fc(normed) + extra(layer, "fc", normed))
    hidden = scaled(layer, "hidden", hidden)
    answer = module.mlp.c_proj(hidden) + extra(layer, "proj", hidden)
    x = x + answer + branch(layer, "mlp", normed, answer)
    return x + branch(layer, "block", first, x)


def image_rows(
    module: Any,
    pixels: Tensor,
    before: Before = unchanged,
    branch: Branched = no_branch,
    extra: Extra = nothing,
    **inside: Any,
) -> Tensor:
    """Rows (b, length, width) after the last norm; `before` of layer 0 is called before ln_pre."""
    visual = module.visual
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(pixels), 1, -1)
    x = torch.cat([start, patches], dim=1) + visual.positional_embedding
    x = visual.ln_pre(before(0, x))
    for layer, resblock in enumerate(visual.transformer.resblocks):
        x = before(layer, x) if layer else x
        x = block(x, resblock, layer, None, extra, branch, **inside)
    return visual.ln_post(x)  # type: ignore[no-any-return]


def text_rows(
    module: Any,
    embedded: Tensor,
    before: Before = unchanged,
    branch: Branched = no_branch,
    extra: Extra = nothing,
    **inside: Any,
) -> Tensor:
    """Rows (n, length, width) after the last norm; `embedded` (n, 77, width) includes positions."""
    x = embedded
    for layer, resblock in enumerate(module.transformer.resblocks):
        x = before(layer, x)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        x = block(x, resblock, layer, mask, extra, branch, **inside)
    return module.ln_final(x)  # type: ignore[no-any-return]


def image_features(module: Any, pixels: Tensor, extra: Extra = nothing) -> Tensor:
    """(b, embed) unit features of preprocessed pixels."""
    rows = image_rows(module, pixels, extra=extra)
    return F.normalize(rows[:, 0] @ module.visual.proj, dim=-1)


def embedded_text_features(
    module: Any, embedded: Tensor, end: Tensor, extra: Extra = nothing
) -> Tensor:
    """(n, embed) unit features of token embeddings (n, 77, width) read at `end` (n,)."""
    rows = text_rows(module, embedded + module.positional_embedding, extra=extra)
    return F.normalize(rows[torch.arange(len(rows)), end] @ module.text_projection, dim=-1)


def text_features(module: Any, tokens: Tensor, extra: Extra = nothing) -> Tensor:
    """(n, embed) unit features of token ids (n, 77)."""
    return embedded_text_features(
        module, module.token_embedding(tokens), tokens.argmax(dim=-1), extra
    )
