"""The pre-norm transformer block of CLIP as a function of frozen weights and an optional adapter.

Tokens of all sequences lie in one flat (t, width) matrix: first a prefix that every sequence
shares, then groups of sequences of equal length. Only attention looks at the layout; the products
run over all tokens at once. The last block is computed for the pooled tokens alone, since nobody
reads the others.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.backbones.protocol import Adapter, Encoder, Site
from fewshot_bench.errors import UnsupportedBackboneError

_NAMES = {
    "ln_1.weight",
    "ln_1.bias",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Frozen weights of one residual attention block; `parts` maps open_clip's names to tensors."""

    parts: Mapping[str, Tensor]
    heads: int
    eps: tuple[float, float]
    activation: Callable[[Tensor], Tensor]

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.parts["ln_1.weight"].shape[0]

    def weight(self, matrix: str) -> Tensor:
        """(d_out, d_in) of q, k, v, o, fc or proj."""
        name, rows = self._locate(matrix)
        return self.parts[name][rows]

    def with_delta(self, matrix: str, delta: Tensor) -> Block:
        """This block with (d_out, d_in) `delta` added to a matrix."""
        name, rows = self._locate(matrix)
        merged = self.parts[name].clone()
        merged[rows] += delta.to(merged)
        parts = types.MappingProxyType({**self.parts, name: merged})
        return dataclasses.replace(self, parts=parts)

    def _locate(self, matrix: str) -> tuple[str, slice]:
        if matrix in ("q", "k", "v"):
            start = "qkv".index(matrix) * self.width
            return "attn.in_proj_weight", slice(start, start + self.width)
        names = {"o": "attn.out_proj.weight", "fc": "mlp.c_fc.weight", "proj": "mlp.c_proj.weight"}
        return names[matrix], slice(None)


def same_tensors(one: Any, other: Any) -> bool:
    """Whether two towers of one kind hold equal tensors."""
    if isinstance(one, Tensor):
        return one is other or torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(same_tensors(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(same_tensors(*pair) for pair in zip(one, other, strict=True))
    if dataclasses.is_dataclass(one):
        fields = [field.name for field in dataclasses.fields(one)]
        return all(same_tensors(getattr(one, name), getattr(other, name)) for name in fields)
    return True


def read_blocks(transformer: Any, dtype: torch.dtype, owner: str) -> tuple[Block, ...]:
    """The blocks of an open_clip transformer, matrices in `dtype`.

    Reads by parameter name, so that it does not matter which attention class open_clip uses;
    UnsupportedBackboneError when a block has parts that this code does not compute.
    """
    blocks = []
    for index, module in enumerate(transformer.resblocks):
        parameters = {name: value.detach() for name, value in module.named_parameters()}
        if set(parameters) != _NAMES:
            odd = sorted(set(parameters) ^ _NAMES)
            raise UnsupportedBackboneError(
                f"{owner}, block {index}: expected CLIP's plain pre-norm block, differs in {odd}; "
                "use a method that runs on frozen features, or another backbone (ViT-B-16/openai)"
            )
        parts = {n: v.to(dtype) if v.ndim == 2 else v for n, v in parameters.items()}
        eps = (module.ln_1.eps, module.ln_2.eps)
        blocks.append(
            Block(types.MappingProxyType(parts), module.attn.num_heads, eps, module.mlp.gelu)
        )
    return tuple(blocks)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the flat tokens divide: `prefix` shared rows, then `count` x `length` rows per group.

    `causal` masks later tokens; `pooled` (n,) are the flat rows that are read in the end, one per
    sequence, in the order of the groups.
    """

    prefix: int
    groups: tuple[tuple[int, int], ...]
    causal: bool
    pooled: Tensor

    def masks(self, device: torch.device) -> list[Tensor | None]:
        """Per group (length, prefix + length) True where a query may look; None: everywhere."""
        return [self._mask(length, device) for _, length in self.groups]

    def _mask(self, length: int, device: torch.device) -> Tensor | None:
        if not self.causal:
            return None
        own = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return torch.cat([own.new_ones(length, self.prefix), own], dim=1)

    def pooled_masks(self) -> list[Tensor | None]:
        """Per group (count, 1, 1, prefix + length): what each pooled token may look at."""
        masks: list[Tensor | None] = []
        row, done = self.prefix, 0
        for count, length in self.groups:
            if not self.causal:
                masks.append(None)
            else:
                starts = row + length * torch.arange(count, device=self.pooled.device)
                ends = self.prefix + self.pooled[done : done + count] - starts
                columns = torch.arange(self.prefix + length, device=self.pooled.device)
                masks.append((columns <= ends[:, None])[:, None, None, :])
            row, done = row + count * length, done + count
        return masks


def run_blocks(
    x: Tensor,
    blocks: Sequence[Block],
    layout: Layout,
    encoder: Encoder,
    adapter: Adapter | None = None,
) -> Tensor:
    """Flat tokens (t, width) through all blocks; returns the pooled rows (n, width)."""
    masks = layout.masks(x.device)
    for layer, block in enumerate(blocks[:-1]):
        x = _full(x, block, layout, masks, _Matrices(block, encoder, layer, adapter))
    last = len(blocks) - 1
    return _pooled(x, blocks[last], layout, _Matrices(blocks[last], encoder, last, adapter))


@dataclasses.dataclass(frozen=True)
class _Matrices:
    """The products of one block, with the adapter's deltas added."""

    block: Block
    encoder: Encoder
    layer: int
    adapter: Adapter | None

    def norm(self, x: Tensor, index: int) -> Tensor:
        parts, name = self.block.parts, f"ln_{index}"
        weight, bias = parts[f"{name}.weight"], parts[f"{name}.bias"]
        return F.layer_norm(x, (x.shape[-1],), weight, bias, self.block.eps[index - 1])

    def _add(self, matrix: str, x: Tensor, product: Tensor) -> Tensor:
        if self.adapter is None:
            return product
        delta = self.adapter.delta(Site(self.encoder, self.layer, matrix), x)
        return product if delta is None else product + delta

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.block.parts
        fused = F.linear(x, parts["attn.in_proj_weight"], parts["attn.in_proj_bias"])
        q, k, v = fused.chunk(3, dim=-1)
        return self._add("q", x, q), self._add("k", x, k), self._add("v", x, v)

    def q_and_kv(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.block.parts["attn.in_proj_weight"]
        bias = self.block.parts["attn.in_proj_bias"]
        width, chosen = self.block.width, x[rows]
        q = F.linear(chosen, weight[:width], bias[:width])
        k, v = F.linear(x, weight[width:], bias[width:]).chunk(2, dim=-1)
        return self._add("q", chosen, q), self._add("k", x, k), self._add("v", x, v)

    def out(self, x: Tensor) -> Tensor:
        parts = self.block.parts
        product = F.linear(x, parts["attn.out_proj.weight"], parts["attn.out_proj.bias"])
        return self._add("o", x, product)

    def mlp(self, x: Tensor) -> Tensor:
        parts = self.block.parts
        hidden = F.linear(x, parts["mlp.c_fc.weight"], parts["mlp.c_fc.bias"])
        hidden = self.block.activation(self._add("fc", x, hidden))
        product = F.linear(hidden, parts["mlp.c_proj.weight"], parts["mlp.c_proj.bias"])
        return self._add("proj", hidden, product)


def _heads(x: Tensor, count: int, heads: int) -> Tensor:
    """(count * length, width) to (count, heads, length, head width)."""
    return x.view(count, -1, heads, x.shape[-1] // heads).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """(count, heads, length, head width) to (count * length, width)."""
    return x.transpose(1, 2).reshape(-1, x.shape[1] * x.shape[3])


def _keys(flat: Tensor, prefix: Tensor | None, count: int, heads: int) -> Tensor:
    own = _heads(flat, count, heads)
    if prefix is None:
        return own
    return torch.cat([prefix.expand(count, -1, -1, -1), own], dim=2)


def _full(
    x: Tensor, block: Block, layout: Layout, masks: list[Tensor | None], matrices: _Matrices
) -> Tensor:
    """All tokens through one block."""
    q, k, v = matrices.qkv(matrices.norm(x, 1))
    parts, heads, size = [], block.heads, layout.prefix
    before_k = _heads(k[:size], 1, heads) if size else None
    before_v = _heads(v[:size], 1, heads) if size else None
    if size and before_k is not None and before_v is not None:
        query = _heads(q[:size], 1, heads)
        mixed = F.scaled_dot_product_attention(query, before_k, before_v, is_causal=layout.causal)
        parts.append(_merge(mixed))
    row = size
    for (count, length), mask in zip(layout.groups, masks, strict=True):
        rows = slice(row, row + count * length)
        keys = _keys(k[rows], before_k, count, heads)
        values = _keys(v[rows], before_v, count, heads)
        query = _heads(q[rows], count, heads)
        parts.append(_merge(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)))
        row += count * length
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    x = x + matrices.out(attended)
    return x + matrices.mlp(matrices.norm(x, 2))


def _pooled(x: Tensor, block: Block, layout: Layout, matrices: _Matrices) -> Tensor:
    """The last block, for the pooled tokens only."""
    q, k, v = matrices.q_and_kv(matrices.norm(x, 1), layout.pooled)
    parts, heads, size = [], block.heads, layout.prefix
    before_k = _heads(k[:size], 1, heads) if size else None
    before_v = _heads(v[:size], 1, heads) if size else None
    row, done = size, 0
    for (count, length), mask in zip(layout.groups, layout.pooled_masks(), strict=True):
        rows = slice(row, row + count * length)
        keys = _keys(k[rows], before_k, count, heads)
        values = _keys(v[rows], before_v, count, heads)
        query = _heads(q[done : done + count], count, heads)
        parts.append(_merge(F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)))
        row, done = row + count * length, done + count
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    x = x[layout.pooled] + matrices.out(attended)
    return x + matrices.mlp(matrices.norm(x, 2))
