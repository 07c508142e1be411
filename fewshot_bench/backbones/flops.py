"""FLOPs of CLIP's encoders, counted analytically: two per multiplication and addition.

Matrix products and attention are counted; norms, activations, softmax and the products with
low-rank factors (under one percent) are not. Masked scores count, since they are computed.
"""

from __future__ import annotations

from fewshot_bench.backbones.blocks import Block
from fewshot_bench.backbones.layout import Layout


def block_flops(block: Block, layout: Layout, *, pooled: bool) -> int:
    """One block over the tokens of a layout; `pooled`: for the pooled tokens only."""
    products = _qkv(block, layout, pooled=pooled) + _others(block, layout, pooled=pooled)
    return products + _attention(block, layout, pooled=pooled)


def gradient_flops(cost: int, block: Block, layout: Layout, pooled: bool, *, into: bool) -> int:
    """The backward pass of a block of frozen weights whose forward pass took `cost`.

    Every product has one gradient product, that of its input; attention has twice its own. Where
    nothing before the block is trained (`into` is False), q, k and v have none.
    """
    gradient = cost + _attention(block, layout, pooled=pooled)
    return gradient if into else gradient - _qkv(block, layout, pooled=pooled)


def _tokens(layout: Layout) -> int:
    return layout.prefix + sum(count * length for count, length in layout.shape)


def _qkv(block: Block, layout: Layout, *, pooled: bool) -> int:
    tokens = _tokens(layout)
    rows = len(layout.pooled) + 2 * tokens if pooled else 3 * tokens
    return 2 * rows * block.width**2


def _others(block: Block, layout: Layout, *, pooled: bool) -> int:
    rows = len(layout.pooled) if pooled else _tokens(layout)
    hidden = block.parts["mlp.c_fc.weight"].shape[0]
    return 2 * rows * (block.width**2 + 2 * block.width * hidden)


def _attention(block: Block, layout: Layout, *, pooled: bool) -> int:
    pairs = sum(
        count * (1 if pooled else length) * (layout.prefix + length)
        for count, length in layout.shape
    )
    if not pooled:
        pairs += layout.prefix**2
    return 4 * pairs * block.width
