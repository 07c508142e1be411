"""CLIP's residual blocks over packed tokens, with the updates of an optional adapter.

Tokens of all runs lie in one (runs * t, width) matrix: `runs` is 1, or the number of adapters that
are trained side by side over the same frozen weights. Only attention looks at the layout; products
run over all tokens at once. The last block is computed for the pooled tokens alone, since nobody
reads the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewshot_bench.api.backbone import Adapter, Encoder, FusedAdapter, Site
from fewshot_bench.backbones.attention import attend, attend_pooled
from fewshot_bench.backbones.blocks import Block, quick_gelu, quick_mlp
from fewshot_bench.backbones.flops import block_flops, gradient_flops
from fewshot_bench.backbones.layout import Layout
from fewshot_bench.profiling.cost import count, count_backward


def run_blocks(
    x: Tensor,
    blocks: Sequence[Block],
    layout: Layout,
    encoder: Encoder,
    adapter: Adapter | None = None,
    *,
    recompute: bool = False,
) -> Tensor:
    """Tokens (runs, t, width) through all blocks; returns the pooled rows (runs, n, width).

    `recompute` keeps only the input of each block for the backward pass and computes the rest
    again: the same numbers, in a fraction of the memory, for a third more work.
    """
    runs, last = len(x), len(blocks) - 1
    x = x.flatten(0, 1)
    fused = adapter if isinstance(adapter, FusedAdapter) else None
    recompute = recompute and torch.is_grad_enabled()
    forward = backward = 0
    for layer, block in enumerate(blocks):
        step = _Pass(block, encoder, layer, adapter, fused, layout, runs)
        run = step.pooled if layer == last else step.full
        before = x.requires_grad
        x = _replayed(run, x, fused) if recompute else run(x)
        cost = runs * block_flops(block, layout, pooled=layer == last)
        forward += cost
        if x.requires_grad:
            backward += gradient_flops(cost, block, layout, runs, layer == last, into=before)
            backward += cost if recompute else 0
    count(flops=forward)
    count_backward(x, backward)
    return x.view(runs, -1, x.shape[-1])


def _replayed(run: Callable[[Tensor], Tensor], x: Tensor, fused: FusedAdapter | None) -> Tensor:
    """`run(x)`, computed again for the backward pass with the random numbers of the first time."""
    before = fused.snapshot() if fused else None
    calls = 0

    def replay(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 1 or fused is None:
            return run(x)
        now = fused.snapshot()
        fused.rewind(before)
        try:
            return run(x)
        finally:
            fused.rewind(now)

    result: Tensor = checkpoint(replay, x, use_reentrant=False, preserve_rng_state=False)
    return result


@dataclass(frozen=True)
class _Pass:
    """One block over tokens of one layout."""

    block: Block
    encoder: Encoder
    layer: int
    adapter: Adapter | None
    fused: FusedAdapter | None
    layout: Layout
    runs: int

    def full(self, x: Tensor) -> Tensor:
        """All tokens (runs * t, width) through the block."""
        qkv = self._product(("q", "k", "v"), self._norm(x, 1))
        x = _plus(x, self._product(("o",), self._attend(qkv)))
        return _plus(x, self._mlp(self._norm(x, 2)))

    def pooled(self, x: Tensor) -> Tensor:
        """The block for the pooled tokens only: (runs * n, width)."""
        normed = self._norm(x, 1)
        q = self._product(("q",), self._pool(normed))
        attended = self._attend_pooled(q, self._product(("k", "v"), normed))
        x = _plus(self._pool(x), self._product(("o",), attended))
        return _plus(x, self._mlp(self._norm(x, 2)))

    def _pool(self, x: Tensor) -> Tensor:
        return x.view(self.runs, -1, x.shape[-1])[:, self.layout.pooled].flatten(0, 1)

    def _norm(self, x: Tensor, index: int) -> Tensor:
        parts, name = self.block.parts, f"ln_{index}"
        weight, bias = parts[f"{name}.weight"], parts[f"{name}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.block.eps[index - 1])

    def _product(self, matrices: tuple[str, ...], x: Tensor) -> Tensor:
        """x W' + b of matrices that stand side by side in one parameter, plus their updates."""
        weight, bias = self.block.fused(matrices)
        product = F.linear(x, weight, bias)
        if self.adapter is None:
            return product
        sites = tuple(Site(self.encoder, self.layer, matrix) for matrix in matrices)
        if self.fused is not None:
            return self.fused.add(sites, x, product)
        parts = product.chunk(len(sites), dim=-1)
        deltas = [self.adapter.delta(site, x) for site in sites]
        if all(delta is None for delta in deltas):
            return product
        pairs = zip(parts, deltas, strict=True)
        return torch.cat([part if d is None else part + d for part, d in pairs], dim=-1)

    def _mlp(self, x: Tensor) -> Tensor:
        if self.block.activation is quick_gelu and not self._adapted("fc", "proj"):
            return quick_mlp(x, self.block)
        hidden = self.block.activation(self._product(("fc",), x))
        return self._product(("proj",), hidden)

    def _adapted(self, *matrices: str) -> bool:
        """Whether an adapter may add to one of these matrices."""
        if self.fused is None:
            return self.adapter is not None
        return any(self.fused.adapts(Site(self.encoder, self.layer, one)) for one in matrices)

    def _attend(self, qkv: Tensor) -> Tensor:
        """(runs * t, 3 width) to (runs * t, width)."""
        if self.layout.causal:
            return attend(qkv, self.layout, self.block.heads, self.runs)
        return self._everywhere(*qkv.chunk(3, dim=-1))

    def _attend_pooled(self, q: Tensor, kv: Tensor) -> Tensor:
        """One query per sequence: (runs * n, width)."""
        if self.layout.causal:
            return attend_pooled(q, kv, self.layout, self.block.heads, self.runs)
        return self._everywhere(q, *kv.chunk(2, dim=-1))

    def _everywhere(self, *parts: Tensor) -> Tensor:
        """Sequences of one length without a mask."""
        count, heads = self.runs * self.layout.groups[0].count, self.block.heads
        q, k, v = (x.view(count, -1, heads, x.shape[-1] // heads).transpose(1, 2) for x in parts)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(len(parts[0]), -1)


def _plus(x: Tensor, product: Tensor) -> Tensor:
    """x + product, in the memory of the product, which nobody else reads."""
    return product.add_(x) if product.dtype == x.dtype else x + product
