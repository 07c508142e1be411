"""Several sets of low-rank updates, trained side by side over one pass of the frozen weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsbench_methods.lora_layers import LowRank, Masks


@dataclass(frozen=True)
class RunsDropout:
    """Dropout of several runs, each of which draws what it would draw alone."""

    runs: tuple[Masks, ...]

    @property
    def rate(self) -> float:
        """The common rate."""
        return self.runs[0].rate

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x` (runs * t, width) is kept."""
        parts = zip(self.runs, x.chunk(len(self.runs)), strict=True)
        return torch.cat([dropout.mask(part) for dropout, part in parts])

    def snapshot(self) -> tuple[Any, ...]:
        """The states of the generators."""
        return tuple(dropout.snapshot() for dropout in self.runs)

    def rewind(self, snapshot: tuple[Any, ...]) -> None:
        """Draw again what came after a snapshot."""
        for dropout, state in zip(self.runs, snapshot, strict=True):
            dropout.rewind(state)


def stacked(adapters: Sequence[LowRank]) -> LowRank:
    """Adapters of equal shapes as the runs of one, with parameters of its own."""
    first = adapters[0]
    if len(adapters) == 1:
        return first
    factors = {
        site: (
            torch.nn.Parameter(torch.stack([one.factors[site][0].detach() for one in adapters])),
            torch.nn.Parameter(torch.stack([one.factors[site][1].detach() for one in adapters])),
        )
        for site in first.factors
    }
    masks = [one.dropout for one in adapters if one.dropout is not None]
    dropout = RunsDropout(tuple(masks)) if masks else None
    return LowRank(factors, first.scaling, dropout, len(adapters))


def apart(adapter: LowRank) -> list[LowRank]:
    """Each run's updates for prediction: no gradients, no dropout."""
    if adapter.runs == 1:
        return [adapter.detached()]
    return [
        LowRank(
            {site: (a[run].detach(), b[run].detach()) for site, (a, b) in adapter.factors.items()},
            adapter.scaling,
        )
        for run in range(adapter.runs)
    ]


def of_runs(x: Tensor, runs: int) -> Tensor:
    """(runs * n, width) as (runs, n, width)."""
    return x.view(runs, -1, x.shape[-1])
