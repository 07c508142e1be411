"""Transformer blocks of CLIP: their frozen weights and their forward pass over packed tokens.

`read_blocks` and `run_blocks` are the entry points; a block that differs from CLIP's pre-norm block
is rejected, so that features always equal those of the model's own forward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewshot_bench.api.backbone import (
    Adapter,
    Branch,
    Edits,
    Encoder,
    Factors,
    FusedAdapter,
    Inner,
    Point,
    Prefix,
    Scale,
    Scores,
    Site,
)
from fewshot_bench.backbones.attention import attend, attend_everywhere, attend_pooled
from fewshot_bench.backbones.block_flops import block_flops, counted, gradient_flops
from fewshot_bench.backbones.factored import multiply
from fewshot_bench.backbones.packing import Layout
from fewshot_bench.backbones.parameters import normalized
from fewshot_bench.backbones.token_edits import read_rows, separate, write_tokens
from fewshot_bench.profiling.cost import count, count_backward
from fewshot_bench.utils.devices import fewer_kernels
from fewshot_bench.utils.errors import ContractError, UnsupportedBackboneError

QUICK = 1.702
NORMS = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias")
_NAMES = {
    *NORMS,
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj.weight",
    "attn.out_proj.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
}


@dataclasses.dataclass(frozen=True)
class Block:
    """Frozen weights of one residual attention block; `parts` maps open_clip's names to tensors.

    Parts `attn.norm` and `mlp.norm`, if present, are norms before o and proj. gated: fc stacks the
    rows of gates and values, and the hidden layer is the activation of the gates times the values.
    rotary (tokens, 2 d): sine and cosine of the rotation of queries and keys, None without one; the
    class token is not rotated. factors: matrices by name that are computed from factors.
    """

    parts: Mapping[str, Tensor]
    heads: int
    eps: tuple[float, float]
    activation: Callable[[Tensor], Tensor]
    gated: bool = False
    rotary: Tensor | None = None
    factors: Mapping[str, Factors] = dataclasses.field(default_factory=dict)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return self.parts["ln_1.weight"].shape[0]

    def stream(self, plain: torch.dtype) -> torch.dtype:
        """The dtype of the residual stream: that of the norms where they have one, else `plain`."""
        dtypes = {self.parts[name].dtype for name in NORMS}
        return dtypes.pop() if len(dtypes) == 1 else plain

    def weight(self, matrix: str) -> Tensor:
        """(d_out, d_in) of q, k, v, o, fc or proj."""
        name, rows = self.locate(matrix)
        return self.parts[name][rows]

    def fused(self, matrices: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """Weight (d_out, d_in) and bias (d_out,) of adjacent matrices: q, or k and v ..."""
        (name, first), (_, last) = self.locate(matrices[0]), self.locate(matrices[-1])
        rows = slice(first.start, last.stop)
        bias = "attn.in_proj_bias" if name.endswith("in_proj_weight") else f"{name[:-6]}bias"
        weights = self.parts[name], self.parts[bias]
        # The gradient of a slice would be a copy.
        if not rows.start and rows.stop in (None, len(weights[0])):
            return weights
        return weights[0][rows], weights[1][rows]

    def product(
        self, matrices: tuple[str, ...], x: Tensor, gain: float = 1.0, offset: float = 1.0
    ) -> Tensor:
        """gain x W' + offset b of adjacent matrices: x (t, d_in) to (t, d_out)."""
        weight, bias = self.fused(matrices)
        factors = self.factors.get(self.locate(matrices[0])[0])
        if factors is not None:
            start = max(0, "qkv".find(matrices[0]))
            factors = factors.of(slice(start, start + len(matrices)))
            return multiply(x, factors, bias, gain, offset)
        if gain == offset == 1:
            return F.linear(x, weight, bias)
        return torch.addmm(bias, x, weight.T, beta=offset, alpha=gain)

    def locate(self, matrix: str) -> tuple[str, slice]:
        """The name among the parts of q, k, v, o, fc or proj, and its rows there."""
        if matrix in ("q", "k", "v"):
            start = "qkv".index(matrix) * self.width
            return "attn.in_proj_weight", slice(start, start + self.width)
        names = {"o": "attn.out_proj.weight", "fc": "mlp.c_fc.weight", "proj": "mlp.c_proj.weight"}
        return names[matrix], slice(None)


def tensors_of(tower: Any) -> Iterator[Tensor]:
    """Every tensor of a tower, in order."""
    if isinstance(tower, Tensor):
        yield tower
    elif isinstance(tower, Mapping):
        yield from chain.from_iterable(map(tensors_of, tower.values()))
    elif isinstance(tower, tuple):
        yield from chain.from_iterable(map(tensors_of, tower))
    elif dataclasses.is_dataclass(tower):
        yield from chain.from_iterable(
            tensors_of(getattr(tower, field.name)) for field in dataclasses.fields(tower)
        )


def read_blocks(transformer: Any, owner: str) -> tuple[Block, ...]:
    """The blocks of an open_clip transformer.

    Reads by parameter name, so that the attention class of open_clip does not matter;
    UnsupportedBackboneError if the parameters of a block differ from those of CLIP's block.
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
        parts, eps = types.MappingProxyType(parameters), (module.ln_1.eps, module.ln_2.eps)
        blocks.append(Block(parts, module.attn.num_heads, eps, _fuse(module.mlp.gelu)))
    return tuple(blocks)


def _fuse(activation: Any) -> Callable[[Tensor], Tensor]:
    """The activation of a block; OpenAI's QuickGELU in its cheap form."""
    function: Callable[[Tensor], Tensor] = activation
    return quick_gelu if type(activation).__name__ == "QuickGELU" else function


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x) as silu(1.702 x) / 1.702: one kernel, one saved tensor. Overwrites x."""
    return F.silu(x.mul_(QUICK)).mul_(1 / QUICK)


def quick_mlp(x: Tensor, block: Block) -> Tensor:
    """The frozen MLP of a block with QuickGELU, whose factors are merged into the products.

    silu(1.702 (x W' + b)) W' / 1.702 + b, with no pass over the wide hidden layer except silu.
    """
    (first, offset), (second, bias) = block.fused(("fc",)), block.fused(("proj",))
    if block.factors:
        hidden = F.silu(block.product(("fc",), x, QUICK, QUICK))
        return block.product(("proj",), hidden, 1 / QUICK)
    if fewer_kernels(x.device) and {first.dtype, offset.dtype, bias.dtype} == {x.dtype}:
        mixed: Tensor = _QuickMlp.apply(x, first, offset, second, bias)  # type: ignore[no-untyped-call]
        return mixed
    hidden = F.silu(torch.addmm(offset, x, first.T, beta=QUICK, alpha=QUICK))
    return F.linear(hidden, second).mul_(1 / QUICK).add_(bias)


class _QuickMlp(torch.autograd.Function):
    """`quick_mlp` in three kernels, and as many backward: there the two factors cancel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, first: Tensor, offset: Tensor, second: Tensor, bias: Tensor
    ) -> Tensor:
        inner = torch.addmm(offset, x, first.T, beta=QUICK, alpha=QUICK)
        trained = any(ctx.needs_input_grad[1:])
        ctx.save_for_backward(first, second, inner, *([x] if trained else []))
        return torch.addmm(bias, F.silu(inner), second.T, alpha=1 / QUICK)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        first, second, inner, *kept = ctx.saved_tensors
        (over,), needs = outer, ctx.needs_input_grad
        # QUICK times the gradient of the hidden layer before its activation.
        of_inner = torch.ops.aten.silu_backward(over @ second, inner)
        return (
            of_inner @ first if needs[0] else None,
            of_inner.T @ kept[0] if needs[1] else None,
            of_inner.sum(0) if needs[2] else None,
            over.T @ F.silu(inner) / QUICK if needs[3] else None,
            over.sum(0) if needs[4] else None,
        )


def run_blocks(
    x: Tensor,
    blocks: Sequence[Block],
    layout: Layout,
    encoder: Encoder,
    adapter: Adapter | None = None,
    *,
    edits: Edits | None = None,
    recompute: bool = False,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Tokens (t, width) through all blocks from `start` on; returns the pooled rows (n, width).

    With `stop`, all tokens (t, width) before block `stop` are returned instead.
    `recompute` keeps only the input of each block for the backward pass and recomputes the rest:
    equal results, in a fraction of the memory, for a third more work. Token rows of `edits` at
    layer 0 of images are in `x` already, inserted before the norm that precedes the blocks.
    On accelerators, tokens within a block have the dtype of its norms: trained ones are in float32
    and need no cast before them.
    """
    last = len(blocks) - 1
    fused = adapter if isinstance(adapter, FusedAdapter) else None
    branch = edits.branch if edits else None
    recompute = recompute and torch.is_grad_enabled()
    forward = backward = 0
    dtype = x.dtype if fewer_kernels(x.device) else None
    for layer, block in list(enumerate(blocks))[start:stop]:
        if dtype is not None:
            x = x.to(block.stream(dtype))
        if edits and (layer or layout.causal):
            x, layout = write_tokens(x, layout, edits.before(layer))
        if layer == last and edits and edits.rows is not None:
            layout = read_rows(layout, edits.rows)
        prefixes = edits.prefixes_in(layer) if edits else ()
        scales = edits.scales_in(layer) if edits else ()
        if prefixes:
            x, layout = separate(x, layout, prefixes)
        ahead = sum(one.count for one in prefixes)
        inner = prefixes, scales, edits.scores_in(layer) if edits else ()
        step = _Pass(block, encoder, layer, adapter, fused, layout, branch, dtype, *inner)
        run = step.pooled if layer == last else step.full
        before = x.requires_grad
        x = _replay(run, x, fused) if recompute else run(x)
        cost = block_flops(block, layout, pooled=layer == last, ahead=ahead)
        forward += cost
        if x.requires_grad:
            pooled = layer == last
            backward += gradient_flops(cost, block, layout, pooled, into=before, ahead=ahead)
            backward += cost if recompute else 0
    count(flops=forward)
    count_backward(x, backward)
    return x if dtype is None else x.to(dtype)


def _replay(run: Callable[[Tensor], Tensor], x: Tensor, fused: FusedAdapter | None) -> Tensor:
    """`run(x)`, recomputed for the backward pass with the random state of the first run."""
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
    """One block over tokens of one layout; dtype: that of its branches, None for that of tokens.

    prefixes, scales, scores: the edits of this block.
    """

    block: Block
    encoder: Encoder
    layer: int
    adapter: Adapter | None
    fused: FusedAdapter | None
    layout: Layout
    branch: Branch | None = None
    dtype: torch.dtype | None = None
    prefixes: tuple[Prefix, ...] = ()
    scales: tuple[Scale, ...] = ()
    scores: tuple[Scores, ...] = ()

    def full(self, x: Tensor) -> Tensor:
        """All tokens (t, width) through the block."""
        normed = self._norm(x, 1)
        attended = self._attend(self._inputs(("q", "k", "v"), normed))
        return self._rest(x, normed, attended)

    def pooled(self, x: Tensor) -> Tensor:
        """The block for the pooled tokens only: (n, width)."""
        normed = self._norm(x, 1)
        own = normed.index_select(0, self.layout.pooled)
        q = self._inputs(("q",), own)
        attended = self._attend_pooled(q, self._inputs(("k", "v"), normed))
        return self._rest(x.index_select(0, self.layout.pooled), own, attended)

    def _rest(self, x: Tensor, normed: Tensor, attended: Tensor) -> Tensor:
        """The block after its attention, for the remaining rows (n, width)."""
        attended = self._inner(self._scaled(("heads",), attended), "attn.norm")
        x = _plus(x, self._branch("attn", normed, self._product(("o",), attended)))
        second = self._norm(x, 2)
        x = _plus(x, self._branch("mlp", second, self._mlp(second)))
        return self._branch("block", normed, x)

    def _branch(self, point: Point, normed: Tensor, output: Tensor) -> Tensor:
        """The output of a part of the block, plus the result of the branch, if any."""
        if self.branch is None:
            return output
        added = counted(partial(self.branch, self.encoder, self.layer, point, normed, output))
        return output if added is None else output + added

    def _norm(self, x: Tensor, index: int) -> Tensor:
        parts, name = self.block.parts, f"ln_{index}"
        weight, bias = parts[f"{name}.weight"], parts[f"{name}.bias"]
        normed = normalized(x, weight, bias, self.block.eps[index - 1])
        return normed if self.dtype is None else normed.to(self.dtype)

    def _product(self, matrices: tuple[str, ...], x: Tensor) -> Tensor:
        """x W' + b of adjacent matrices in one parameter, plus the adapter's updates."""
        product = self.block.product(matrices, x)
        if self.adapter is None:
            return product
        sites = tuple(Site(self.encoder, self.layer, matrix) for matrix in matrices)
        if self.fused is not None:
            return self.fused.add(sites, x, product).to(product.dtype)
        parts = product.chunk(len(sites), dim=-1)
        deltas = [self.adapter.delta(site, x) for site in sites]
        if all(delta is None for delta in deltas):
            return product
        pairs = zip(parts, deltas, strict=True)
        updated = [part if d is None else part + d.to(part.dtype) for part, d in pairs]
        return torch.cat(updated, dim=-1)

    def _inputs(self, matrices: tuple[Inner, ...], x: Tensor) -> Tensor:
        """Queries, keys or values of attention, side by side."""
        return self._scaled(matrices, self._product(matrices, x))

    def _scaled(self, places: tuple[Inner, ...], x: Tensor) -> Tensor:
        """x (t, size of all places), times the factors at these adjacent places."""
        size = x.shape[-1] // len(places)
        factors = {place: list[Tensor]() for place in places}
        for one in self.scales:
            if one.at in factors:
                factors[one.at].append(one.over(size, self.block.heads))
        if not any(factors.values()):
            return x
        ones = torch.ones(size, device=x.device)
        rows = [functools.reduce(torch.mul, every, ones) for every in factors.values()]
        return (x * torch.cat(rows)).to(x.dtype)

    def _mlp(self, x: Tensor) -> Tensor:
        plain = self.block.activation is quick_gelu and "mlp.norm.weight" not in self.block.parts
        plain = plain and all(one.at != "hidden" for one in self.scales)
        if plain and not self._adapts("fc", "proj"):
            return quick_mlp(x, self.block)
        hidden = self._product(("fc",), x)
        if self.block.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self.block.activation(gate) * hidden
        else:
            hidden = self.block.activation(hidden)
        hidden = self._inner(self._scaled(("hidden",), hidden), "mlp.norm")
        return self._product(("proj",), hidden)

    def _inner(self, x: Tensor, name: str) -> Tensor:
        """Apply the inner norm of this name, if the block has one."""
        weight = self.block.parts.get(f"{name}.weight")
        if weight is None:
            return x
        return normalized(x, weight, self.block.parts[f"{name}.bias"], self.block.eps[0])

    def _adapts(self, *matrices: str) -> bool:
        """True if an adapter may update one of these matrices."""
        if self.fused is None:
            return self.adapter is not None
        return any(self.fused.adapts(Site(self.encoder, self.layer, matrix)) for matrix in matrices)

    def _attend(self, qkv: Tensor) -> Tensor:
        """(t, 3 width) to (t, width)."""
        if self.layout.causal:
            return attend(qkv, self.layout, self.block.heads, self.prefixes)
        return self._everywhere(*qkv.chunk(3, dim=-1))

    def _attend_pooled(self, q: Tensor, kv: Tensor) -> Tensor:
        """One query per sequence: (n, width)."""
        if self.layout.causal:
            return attend_pooled(q, kv, self.layout, self.block.heads, self.prefixes)
        return self._everywhere(q, *kv.chunk(2, dim=-1))

    def _everywhere(self, *parts: Tensor) -> Tensor:
        """Attention within sequences of one length, without a mask."""
        count, heads = self.layout.groups[0].count, self.block.heads
        q, k, v = (x.view(count, -1, heads, x.shape[-1] // heads).transpose(1, 2) for x in parts)
        if self.block.rotary is not None:
            q, k = (_rotate(x, self.block.rotary[: x.shape[2]]).to(v.dtype) for x in (q, k))
        mixed = attend_everywhere(q, k, v, heads, self.prefixes, self._added(q, k))
        return mixed.transpose(1, 2).reshape(parts[0].shape[0], -1)

    def _added(self, q: Tensor, k: Tensor) -> Tensor | None:
        """What is added to the scores of queries (count, heads, m, d), from their rows alone."""
        added, (count, heads, asked, _), length = None, q.shape, k.shape[2]
        for one in self.scores:
            *each, rows, _ = one.values.shape
            if rows != length or tuple(each) not in ((), (heads,), (count, heads)):
                raise ContractError(
                    f"Scores.values of shape {tuple(one.values.shape)}: block {self.layer} has "
                    f"{length} rows of {count} images, and {heads} heads"
                )
            added = one.values if added is None else added + one.values
        if added is None:
            return None
        if asked != length:
            added = added.index_select(-2, self.layout.pooled[:asked] % length)
        return added.to(q.dtype)


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """(n, heads, length, d) with pairs of adjacent values rotated by their position's angle."""
    sine, cosine = rotary.chunk(2, dim=-1)
    pairs = x.view(*x.shape[:-1], -1, 2)
    turned = torch.stack([-pairs[..., 1], pairs[..., 0]], dim=-1).flatten(-2)
    return x * cosine + turned * sine


def _plus(x: Tensor, product: Tensor) -> Tensor:
    """x + product, in place of the product if dtypes match: it is not used elsewhere."""
    return product.add_(x) if product.dtype == x.dtype else x + product
