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

from fewshot_bench.backbones.blocks import Block
from fewshot_bench.backbones.layout import Group, Layout
from fewshot_bench.backbones.protocol import Adapter, Encoder, FusedAdapter, Site


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
    for layer, block in enumerate(blocks):
        step = _Pass(block, encoder, layer, adapter, fused, layout, runs)
        run = step.pooled if layer == last else step.full
        x = _replayed(run, x, fused) if recompute and torch.is_grad_enabled() else run(x)
    return x.unflatten(0, (runs, -1))


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
        q, k, v = self._product(("q", "k", "v"), self._norm(x, 1)).chunk(3, dim=-1)
        x = _plus(x, self._product(("o",), self._attend(q, k, v)))
        return _plus(x, self._mlp(self._norm(x, 2)))

    def pooled(self, x: Tensor) -> Tensor:
        """The block for the pooled tokens only: (runs * n, width)."""
        normed = self._norm(x, 1)
        q = self._product(("q",), self._pool(normed))
        k, v = self._product(("k", "v"), normed).chunk(2, dim=-1)
        attended = self._attend_pooled(q, k, v)
        x = _plus(self._pool(x), self._product(("o",), attended))
        return _plus(x, self._mlp(self._norm(x, 2)))

    def _pool(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.runs, -1))[:, self.layout.pooled].flatten(0, 1)

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
        hidden = self.block.activation(self._product(("fc",), x))
        return self._product(("proj",), hidden)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(runs * t, width): every token looks at the prefix and at its own sequence."""
        q, k, v = (part.unflatten(0, (self.runs, -1)) for part in (q, k, v))
        mixed, layout = [], self.layout
        before = self._prefix(k, v)
        if before is not None:
            first = self._heads(q[:, : layout.prefix], 1)
            own = F.scaled_dot_product_attention(first, *before, is_causal=layout.causal)
            mixed.append(self._merge(own))
        for group, mask in zip(layout.groups, layout.masks, strict=True):
            query = self._heads(q[:, group.rows], group.count)
            keys, values = self._keys(k, v, before, group)
            own = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            mixed.append(self._merge(own))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)).flatten(0, 1)

    def _attend_pooled(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(runs * n, width): one query per sequence."""
        q, k, v = (part.unflatten(0, (self.runs, -1)) for part in (q, k, v))
        mixed, layout = [], self.layout
        before = self._prefix(k, v)
        for group, mask in zip(layout.groups, layout.pooled_masks, strict=True):
            query = self._heads(q[:, group.members], group.count)
            keys, values = self._keys(k, v, before, group)
            if mask is not None and self.runs > 1:
                mask = mask.repeat(self.runs, 1, 1, 1)
            own = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            mixed.append(self._merge(own))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)).flatten(0, 1)

    def _prefix(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
        """Keys and values of the shared prefix, (runs, heads, prefix, head width)."""
        size = self.layout.prefix
        return (self._heads(k[:, :size], 1), self._heads(v[:, :size], 1)) if size else None

    def _keys(
        self, k: Tensor, v: Tensor, before: tuple[Tensor, Tensor] | None, group: Group
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a group's sequences, behind those of the prefix."""
        keys, values = (self._heads(part[:, group.rows], group.count) for part in (k, v))
        if before is None:
            return keys, values
        spread = [part.repeat_interleave(group.count, dim=0) for part in before]
        return torch.cat([spread[0], keys], dim=2), torch.cat([spread[1], values], dim=2)

    def _heads(self, x: Tensor, count: int) -> Tensor:
        """(runs, count * length, width) to (runs * count, heads, length, head width)."""
        heads = self.block.heads
        return x.reshape(self.runs * count, -1, heads, x.shape[-1] // heads).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        """(runs * count, heads, length, head width) to (runs, count * length, width)."""
        return x.transpose(1, 2).reshape(self.runs, -1, x.shape[1] * x.shape[3])


def _plus(x: Tensor, product: Tensor) -> Tensor:
    """x + product, in the memory of the product, which nobody else reads."""
    return product.add_(x) if product.dtype == x.dtype else x + product
