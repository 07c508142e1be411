"""Optimal transport with entropy between small sets, for many pairs of them at once."""

from __future__ import annotations

import torch
from torch import Tensor


def transport(cost: Tensor, eps: float, rounds: int, tolerance: float) -> Tensor:
    """The plan (..., m, n) of entropic optimal transport between uniform weights, by Sinkhorn.

    Each problem ends by itself, behind the round that changes its row factors by less than
    `tolerance` on average; none waits for others, nor for the host.
    """
    kernel = (-cost / eps).exp()
    rows, columns = torch.ones_like(cost[..., 0]), torch.ones_like(cost[..., 0, :])
    moving = torch.ones_like(rows[..., :1], dtype=torch.bool)
    for _ in range(rounds):
        by_row = 1 / (rows.shape[-1] * (kernel * columns[..., None, :]).sum(dim=-1))
        by_column = 1 / (columns.shape[-1] * (kernel * by_row[..., None]).sum(dim=-2))
        change = (by_row - rows).abs().mean(dim=-1, keepdim=True)
        rows, columns = rows.where(~moving, by_row), columns.where(~moving, by_column)
        moving = moving & (change >= tolerance)
    return rows[..., None] * columns[..., None, :] * kernel
