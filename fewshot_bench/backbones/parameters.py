"""The tensors of a tower by name, and a tower with some of them replaced.

`tower_parameters`, `replaced` and `factored` serve all towers: names within blocks are open_clip's,
such as `blocks.0.ln_1.weight`, and names outside of blocks are the tower's fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Factors
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
        normed = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return normed.to(x.dtype)


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

    Tensors are cast to the dtype of the frozen ones, so that trained float32 values run in 16 bits.
    ContractError for an unknown name or a different shape.
    """
    own = tower_parameters(tower)
    fields: dict[str, Any] = {}
    blocks = list(tower.blocks)  # type: ignore[attr-defined]
    parts: dict[int, dict[str, Tensor]] = {}
    for name, value in parameters.items():
        _check(name, value.shape, own)
        value = value.to(own[name].dtype)
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
