"""Low-rank updates of the backbone's matrices, with dropout on their input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import ImageTower, Site, TextTower

Factors = Mapping[Site, tuple[Tensor, Tensor]]
"""A (rank, d_in) and B (d_out, rank) of every adapted matrix."""


@dataclass(frozen=True)
class Dropout:
    """Inverted dropout that draws from its own generator, never from a global one.

    Sixteen random bits decide on each element, so that rates are exact to 1/65536; four elements
    share a 64-bit draw, which is many times faster on a CPU than one Bernoulli draw each.
    """

    rate: float
    generator: torch.Generator

    def mask(self, x: Tensor) -> Tensor:
        """True where an element of `x` is kept, of the shape of `x`."""
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        return bits >= round(self.rate * 65536) - 32768


class _Masked(torch.autograd.Function):
    """gain * ((x * keep) A') B', which keeps x and one byte per element of the mask.

    Plain operations would keep x * keep and the mask in the precision of x, for q, k and v each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, keep: Tensor, gain: float) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            masked = x.to(a.dtype) * keep.to(a.dtype)
            hidden = F.linear(masked, a) * gain
            ctx.save_for_backward(x, a, b, keep, hidden)
            ctx.gain = gain
            return F.linear(hidden, b)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, keep, hidden = ctx.saved_tensors
        gradient = outer[0].flatten(0, -2)
        ones = keep.to(a.dtype)
        inner = (gradient @ b) * ctx.gain
        of_a = inner.T @ (x.to(a.dtype) * ones).flatten(0, -2)
        of_b = gradient.T @ hidden.flatten(0, -2)
        if not ctx.needs_input_grad[0]:
            return None, of_a, of_b, None, None
        of_x = (inner @ a).view(x.shape) * ones
        return of_x.to(x.dtype), of_a, of_b, None, None


def masked_update(x: Tensor, a: Tensor, b: Tensor, keep: Tensor, gain: float) -> Tensor:
    """gain * ((x * keep) A') B' in little memory; a quarter slower than plainly on a CPU."""
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    update: Tensor = _Masked.apply(x, a.to(dtype), b.to(dtype), keep, gain)  # type: ignore[no-untyped-call]
    return update


@dataclass(frozen=True)
class LowRank:
    """Adds s * B A dropout(x) to the frozen products (LoRA, Hu et al. 2022).

    `scaling` is s. With dropout every matrix of a block draws its own mask over the common input,
    as CLIP-LoRA does for q, k and v.
    """

    factors: Factors
    scaling: float
    dropout: Dropout | None = None
    _gain: float = field(init=False)

    def __post_init__(self) -> None:
        """Folds the dropout's 1 / (1 - rate) into the scaling."""
        kept = 1.0 if self.dropout is None else 1.0 - self.dropout.rate
        object.__setattr__(self, "_gain", self.scaling / kept)

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """(..., d_out) update at `site` for its input x (..., d_in); None where there is none."""
        pair = self.factors.get(site)
        if pair is None:
            return None
        if self.dropout is None:
            return F.linear(F.linear(x, pair[0]) * self._gain, pair[1])
        keep = self.dropout.mask(x)
        if x.device.type != "cpu":
            return masked_update(x, *pair, keep, self._gain)
        return F.linear(F.linear(x * keep.to(x.dtype), pair[0]) * self._gain, pair[1])

    def merged(self) -> dict[Site, Tensor]:
        """(d_out, d_in) s * B A of every site, to be added to the frozen weights."""
        return {site: self.scaling * (b @ a) for site, (a, b) in self.factors.items()}

    def detached(self) -> LowRank:
        """The same updates for prediction: no gradients, no dropout."""
        factors = {site: (a.detach(), b.detach()) for site, (a, b) in self.factors.items()}
        return replace(self, factors=factors, dropout=None)

    def parameters(self) -> list[Tensor]:
        """Every A and B."""
        return [factor for pair in self.factors.values() for factor in pair]

    def named_tensors(self) -> dict[str, Tensor]:
        """Every A and B by name, such as `vision.0.q.A`."""
        named = {}
        for site, (a, b) in self.factors.items():
            name = f"{site.encoder}.{site.layer}.{site.matrix}"
            named[f"{name}.A"], named[f"{name}.B"] = a, b
        return named


def init_factors(
    sites: Iterable[tuple[Site, tuple[int, int]]],
    rank: int,
    rng: torch.Generator,
    device: torch.device,
) -> dict[Site, tuple[Tensor, Tensor]]:
    """A uniform in +-1/sqrt(d_in) (Kaiming uniform with a = sqrt(5)), B zero, as parameters.

    `sites` come with the shape (d_out, d_in) of their matrix.
    """
    factors: dict[Site, tuple[Tensor, Tensor]] = {}
    for site, (d_out, d_in) in sites:
        bound = 1 / math.sqrt(d_in)
        a = torch.empty(rank, d_in).uniform_(-bound, bound, generator=rng).to(device)
        b = torch.zeros(d_out, rank, device=device)
        factors[site] = (torch.nn.Parameter(a), torch.nn.Parameter(b))
    return factors


def tower_sites(
    tower: ImageTower | TextTower, encoder: str, layers: Iterable[int], matrices: Iterable[str]
) -> list[tuple[Site, tuple[int, int]]]:
    """The chosen sites of one tower with the shapes of their matrices."""
    names = tuple(matrices)
    sites = [Site(encoder, layer, name) for layer in layers for name in names]  # type: ignore[arg-type]
    return [(site, (tower.weight(site).shape[0], tower.weight(site).shape[1])) for site in sites]


def layers_at(position: str, depth: int) -> range:
    """Which of `depth` layers a position name means (CLIP-LoRA loralib/utils.py:10-39).

    Halves are the paper's Up and Bottom. `top`, `middle` and `bottom` are thirds (4 of 12 layers),
    `top3` the last three; at any depth at least one layer.
    """
    half, third = max(1, depth // 2), max(1, depth // 3)
    start, size = {
        "all": (0, depth),
        "top-half": (depth - half, half),
        "bottom-half": (0, half),
        "top": (depth - third, third),
        "middle": ((depth - third) // 2, third),
        "bottom": (0, third),
        "top3": (max(0, depth - 3), min(3, depth)),
    }[position]
    return range(start, start + size)
