"""The tensors of a tower by name, and a tower with some of them replaced or in 16 bits.

`tower_parameters`, `replaced`, `factored` and `in_dtype` serve all towers: names within blocks are
open_clip's, such as `blocks.0.ln_1.weight`, and names outside of blocks are the tower's fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Factors
from fewshot_bench.utils.devices import fewer_kernels
from fewshot_bench.utils.errors import ContractError

_Tower = TypeVar("_Tower")


@dataclass(frozen=True)
class Norm:
    """A LayerNorm as tensors (width,); the result has the dtype of its input."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """(..., width) normalized."""
        return normalized(x, self.weight, self.bias, self.eps)


def normalized(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm of x (..., width) in its dtype; statistics are in float32.

    Where weights and x have 16 bits, autocast would only cast all of them there and back.
    """
    if x.dtype != torch.float32 and {weight.dtype, bias.dtype} == {x.dtype}:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, weight.shape, weight, bias, eps)
    return F.layer_norm(x, weight.shape, weight, bias, eps).to(x.dtype)


class _Cast(torch.autograd.Function):
    """Tensors in another dtype, in one kernel for all, and another for their gradients."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [value.dtype for value in values]
        cast = [torch.empty_like(value, dtype=dtype) for value in values]
        torch._foreach_copy_(cast, values)
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = zip(outer, ctx.dtypes, strict=True)
        cast = [None if o is None else torch.empty_like(o, dtype=dtype) for o, dtype in pairs]
        given = [one for one in outer if one is not None]
        torch._foreach_copy_([one for one in cast if one is not None], given)
        return None, *cast


def cast_together(values: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in `dtype`, differentiable; all that have another one are cast at once."""
    others = [index for index, value in enumerate(values) if value.dtype != dtype]
    found = list(values)
    if others:
        cast = _Cast.apply(dtype, *(values[index] for index in others))  # type: ignore[no-untyped-call]
        for index, value in zip(others, cast, strict=True):
            found[index] = value
    return found


def read_norm(module: Any) -> Norm | None:
    """The norm of an open_clip module; None if it is not a LayerNorm with weight and bias."""
    if not isinstance(module, torch.nn.LayerNorm) or module.weight is None or module.bias is None:
        return None
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def tower_parameters(tower: Any) -> dict[str, Tensor]:
    """Every tensor of a tower by name."""
    values: dict[str, Tensor] = {}
    for field in dataclasses.fields(tower):
        value = getattr(tower, field.name)
        if isinstance(value, Tensor):
            values[field.name] = value
        elif isinstance(value, Norm):
            values[f"{field.name}.weight"], values[f"{field.name}.bias"] = value.weight, value.bias
    for index, block in enumerate(tower.blocks):
        values |= {f"blocks.{index}.{name}": value for name, value in block.parts.items()}
    return values


def replaced(tower: _Tower, parameters: Mapping[str, Tensor]) -> _Tower:
    """The tower with these tensors in place of its own, differentiable in them.

    Tensors are cast to the dtype of the frozen ones, so that trained float32 values run in 16 bits;
    those of norms are not: 16 bits would round them by more than a step changes them.
    ContractError for an unknown name or a different shape.
    """
    own, cast = tower_parameters(tower), dict(parameters)
    by_dtype: dict[torch.dtype, list[str]] = {}
    for name, value in parameters.items():
        _check(name, value.shape, own)
        if not _is_norm(name):
            by_dtype.setdefault(own[name].dtype, []).append(name)
    for dtype, names in by_dtype.items():
        values = cast_together([parameters[name] for name in names], dtype)
        cast.update(zip(names, values, strict=True))
    return _put(tower, cast)


def in_dtype(tower: _Tower, dtype: torch.dtype, kept: Container[str] = ()) -> _Tower:
    """The tower with its tensors in `dtype`, so that autocast casts none of them in a step.

    kept: names that stay as they are. On a CPU, where it hardly costs, these are all but matrices.
    """
    own = tower_parameters(tower)
    few = fewer_kernels(next(iter(own.values())).device)
    chosen = {
        name: value.to(dtype)
        for name, value in own.items()
        if name not in kept and (few or _is_matrix(name, value))
    }
    return _put(tower, chosen)


def names_of_norms(names: Iterable[str]) -> set[str]:
    """Weight and bias of every norm of which one or both are among `names`."""
    layers = {name.rpartition(".")[0] for name in names if _is_norm(name)}
    return {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def _is_norm(name: str) -> bool:
    """True for `ln_final.weight`, `blocks.0.attn.norm.bias` ..."""
    layer = name.split(".")[-2:][0]
    return layer.startswith("ln_") or layer == "norm"


def _is_matrix(name: str, value: Tensor) -> bool:
    return name in ("patch_weight", "projection") or (
        name.startswith("blocks.") and value.dim() == 2
    )


def _put(tower: _Tower, parameters: Mapping[str, Tensor]) -> _Tower:
    fields: dict[str, Any] = {}
    blocks = list(tower.blocks)  # type: ignore[attr-defined]
    parts: dict[int, dict[str, Tensor]] = {}
    for name, value in parameters.items():
        if name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            parts.setdefault(int(number), {})[part] = value
            continue
        field, _, part = name.partition(".")
        if part:
            norm = fields.get(field, getattr(tower, field))
            fields[field] = dataclasses.replace(norm, **{part: value})
        else:
            fields[field] = value
    for index, changed in parts.items():
        merged = types.MappingProxyType({**blocks[index].parts, **changed})
        kept = {name: one for name, one in blocks[index].factors.items() if name not in changed}
        blocks[index] = dataclasses.replace(blocks[index], parts=merged, factors=kept)
    return dataclasses.replace(tower, blocks=tuple(blocks), **fields)  # type: ignore[type-var]


def factored(tower: _Tower, factors: Mapping[str, Factors]) -> _Tower:
    """The tower with these factors of its matrices in their place, differentiable in their values.

    U and V' are cast to the dtype of the frozen matrix. ContractError for an unknown name or a
    different shape.
    """
    own = tower_parameters(tower)
    blocks = list(tower.blocks)  # type: ignore[attr-defined]
    for name, one in factors.items():
        dtype = own[name].dtype if name in own else torch.float32
        one = Factors(one.left.to(dtype), one.values, one.right.to(dtype))
        whole = one.left.flatten(0, 1).shape[0], one.right.shape[-1]
        _check(name, whole, own)
        _, number, part = name.split(".", 2)
        block = blocks[int(number)]
        blocks[int(number)] = dataclasses.replace(block, factors={**block.factors, part: one})
    return dataclasses.replace(tower, blocks=tuple(blocks))  # type: ignore[type-var]


def _check(name: str, shape: Sequence[int], own: Mapping[str, Tensor]) -> None:
    if name not in own:
        close = difflib.get_close_matches(name, own, 3) or sorted(own)[:3]
        raise ContractError(
            f"parameter {name!r}: the tower has none of that name; names are such as "
            f"{', '.join(close)} (tower.parameters())"
        )
    if tuple(shape) != own[name].shape:
        raise ContractError(
            f"parameter {name!r} of shape {tuple(shape)}: expected {tuple(own[name].shape)}"
        )
