"""Products with a matrix U diag(s) V' of which s is trained: the whole matrix is never formed.

`multiply` is the entry point. It saves x V alone for the backward pass, and its gradients take as
many products as its forward pass, none of the size of the matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.api.backbone import Factors


def multiply(
    x: Tensor, factors: Factors, bias: Tensor, gain: float = 1.0, offset: float = 1.0
) -> Tensor:
    """gain x W' + offset b of x (t, d_in): (t, parts * rows), parts side by side."""
    values = factors.values if gain == 1 else gain * factors.values
    product: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
        x, values, factors.left, factors.right, bias, offset
    )
    return product


class _Product(torch.autograd.Function):
    """((x V) s) U' + offset b; x is cast to the dtype of the factors."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        left: Tensor,
        right: Tensor,
        bias: Tensor,
        offset: float,
    ) -> Tensor:
        hidden = F.linear(x.to(right.dtype), right.flatten(0, 1))
        ctx.save_for_backward(hidden, values, left, right)
        return _by_part(_scale(hidden, values), left.mT, bias.to(hidden.dtype), offset)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, values, left, right = ctx.saved_tensors
        of_scaled = _by_part(outer[0], left)
        of_values = (hidden * of_scaled).sum(dim=0, dtype=values.dtype).view(values.shape)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _scale(of_scaled, values) @ right.flatten(0, 1)
        return of_x, of_values, None, None, None, None


def _scale(hidden: Tensor, values: Tensor) -> Tensor:
    """hidden times values in float32, in the dtype of hidden."""
    return torch.mul(hidden, values.flatten(), out=torch.empty_like(hidden))


def _by_part(
    x: Tensor, matrices: Tensor, bias: Tensor | None = None, offset: float = 1.0
) -> Tensor:
    """Columns of x (t, parts * n) by the matrix of each part (parts, n, m): (t, parts * m)."""
    if len(matrices) == 1:
        one = matrices[0]
        return x @ one if bias is None else torch.addmm(bias, x, one, beta=offset)
    inputs, (parts, _, width) = x.chunk(len(matrices), dim=-1), matrices.shape
    out = x.new_empty(len(x), parts * width)
    for index, (part, one) in enumerate(zip(out.chunk(parts, dim=-1), inputs, strict=True)):
        if bias is None:
            torch.mm(one, matrices[index], out=part)
        else:
            own = bias[index * width : (index + 1) * width]
            torch.addmm(own, one, matrices[index], beta=offset, out=part)
    return out
