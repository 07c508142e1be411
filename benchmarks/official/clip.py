"""The plain model: every token in every block, 77 tokens for every prompt, nothing shared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attentions = Sequence[Any]
Edit = Callable[[int, Tensor], Tensor]
"""(layer, rows (length, n, width)) to the rows that enter the block."""
Branch = Callable[[int, Any, Tensor], Tensor | None]
"""(layer, block, rows that enter it) to what is added to the rows that leave it."""


class SplitAttention(nn.Module):
    """Multi-head attention with separate q, k and v; length first, as in OpenAI's CLIP."""

    def __init__(self, attention: Any, layers: Sequence[nn.Module], out: Any = None) -> None:
        super().__init__()
        self.q, self.k, self.v = layers
        self.out = attention.out_proj if out is None else out
        self.heads = attention.num_heads

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(length, n, width) to the same shape."""
        length, count, width = x.shape
        q, k, v = (
            layer(x).contiguous().view(length, count * self.heads, -1).transpose(0, 1)
            for layer in (self.q, self.k, self.v)
        )
        q, k, v = (part.view(count, self.heads, length, -1) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = mixed.permute(2, 0, 1, 3).contiguous().view(length, count, width)
        out: Tensor = self.out(mixed)
        return out


class PlainAttention(nn.Module):
    """The frozen model's own attention, length first."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(length, n, width) to the same shape."""
        x = x.transpose(0, 1)
        out: Tensor = self.attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out.transpose(0, 1)


def plain_attentions(transformer: Any) -> list[nn.Module]:
    """The frozen attention of every block."""
    return [PlainAttention(block.attn) for block in transformer.resblocks]


def split_projections(attention: Any) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of q, k and v."""
    weights = attention.in_proj_weight.detach().chunk(3)
    return list(zip(weights, attention.in_proj_bias.detach().chunk(3), strict=True))


def run_blocks(
    x: Tensor,
    transformer: Any,
    attentions: Attentions,
    mask: Tensor | None,
    edit: Edit | None = None,
    branch: Branch | None = None,
) -> Tensor:
    """Run (n, length, width) through all blocks, every token in every block."""
    x = x.permute(1, 0, 2)
    each = zip(transformer.resblocks, attentions, strict=True)
    for layer, (module, attention) in enumerate(each):
        if edit is not None:
            x = edit(layer, x)
        beside = None if branch is None else branch(layer, module, x)
        x = x + attention(module.ln_1(x), None if mask is None else mask[: len(x), : len(x)])
        x = x + module.mlp(module.ln_2(x))
        if beside is not None:
            x = x + beside
    return x.permute(1, 0, 2)


def image_rows(
    module: Any,
    pixels: Tensor,
    attentions: Attentions,
    appended: Tensor | None = None,
    **edits: Any,
) -> Tensor:
    """(b, length, width) rows of the last block; appended: rows (n, width) behind the patches."""
    visual = module.visual
    x = visual.conv1(pixels).flatten(2).permute(0, 2, 1)
    start = visual.class_embedding + x.new_zeros(len(x), 1, x.shape[-1])
    x = torch.cat([start, x], dim=1) + visual.positional_embedding
    if appended is not None:
        x = torch.cat([x, appended.expand(len(x), -1, -1)], dim=1)
    return run_blocks(visual.ln_pre(x), visual.transformer, attentions, None, **edits)


def raw_image_features(module: Any, pixels: Tensor, attentions: Attentions, **edits: Any) -> Tensor:
    """(b, embed) features, not normalized."""
    x = image_rows(module, pixels, attentions, **edits)
    raw: Tensor = module.visual.ln_post(x[:, 0]) @ module.visual.proj
    return raw


def image_features(module: Any, pixels: Tensor, attentions: Attentions, **edits: Any) -> Tensor:
    """(b, embed) unit features."""
    return F.normalize(raw_image_features(module, pixels, attentions, **edits), dim=-1)


def raw_text_features(
    module: Any,
    embedded: Tensor,
    ends: Tensor,
    attentions: Attentions,
    mask: Tensor | None = None,
    **edits: Any,
) -> Tensor:
    """(n, embed) features of (n, 77, width) token embeddings, not normalized."""
    x = embedded + module.positional_embedding
    mask = module.attn_mask if mask is None else mask
    x = module.ln_final(run_blocks(x, module.transformer, attentions, mask, **edits))
    return x[torch.arange(len(x), device=x.device), ends] @ module.text_projection  # type: ignore[no-any-return]


def text_features(
    module: Any, embedded: Tensor, ends: Tensor, attentions: Attentions, **edits: Any
) -> Tensor:
    """(n, embed) unit features of (n, 77, width) token embeddings."""
    return F.normalize(raw_text_features(module, embedded, ends, attentions, **edits), dim=-1)


def frozen_copy(module: Any) -> Any:
    """A copy of the model without gradients, in evaluation mode."""
    return copy.deepcopy(module).requires_grad_(False).eval()
