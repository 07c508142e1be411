"""The frozen weights of CLIP's pre-norm transformer block, read from open_clip's modules."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.utils.errors import UnsupportedBackboneError

QUICK = 1.702
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

    def fused(self, matrices: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """(d_out, d_in) and (d_out,) of matrices that stand side by side: q, or k and v ..."""
        (name, first), (_, last) = self._locate(matrices[0]), self._locate(matrices[-1])
        rows = slice(first.start, last.stop)
        bias = "attn.in_proj_bias" if name.endswith("in_proj_weight") else f"{name[:-6]}bias"
        return self.parts[name][rows], self.parts[bias][rows]

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
        places = [(x.data_ptr(), x.dtype, x.shape, x.stride()) for x in (one, other)]
        return places[0] == places[1] or torch.equal(one, other)
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
            Block(
                types.MappingProxyType(parts), module.attn.num_heads, eps, _fused(module.mlp.gelu)
            )
        )
    return tuple(blocks)


def _fused(activation: Any) -> Callable[[Tensor], Tensor]:
    """The activation of a block; OpenAI's QuickGELU in its cheap form."""
    known: Callable[[Tensor], Tensor] = activation
    return quick_gelu if type(activation).__name__ == "QuickGELU" else known


def quick_gelu(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x) as silu(1.702 x) / 1.702: one kernel, one saved tensor. Overwrites x."""
    return F.silu(x.mul_(QUICK)).mul_(1 / QUICK)


def quick_mlp(x: Tensor, block: Block) -> Tensor:
    """The frozen MLP of a block with QuickGELU: its factors go through the products.

    silu(1.702 (x W' + b)) W' / 1.702 + b, with no pass over the wide hidden layer but silu's own.
    """
    (first, offset), (second, bias) = block.fused(("fc",)), block.fused(("proj",))
    hidden = F.silu(torch.addmm(offset, x, first.T, beta=QUICK, alpha=QUICK))
    return F.linear(hidden, second).mul_(1 / QUICK).add_(bias)
