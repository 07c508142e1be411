"""Weights decomposed into magnitudes and directions, with low-rank updated directions (DoRA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.backbones import ImageTower, Site, TextTower, fewer_kernels
from fsbench_methods.lora_layers import LowRank, Masks, site_name, with_deltas
from fsbench_methods.lora_model import LoraModel

_BIASES = {"o": "attn.out_proj.bias", "fc": "mlp.c_fc.bias", "proj": "mlp.c_proj.bias"}


@dataclass(frozen=True)
class Decomposed:
    """W' = m (W + s B A) / |W + s B A|, row by row of (d_out, d_in) (Liu et al. 2024, eq. 5).

    magnitudes (d_out,) are m; frozen holds W and the bias of every site. norms (d_out,) are the
    row norms of W + s B A, which `for_step` updates; they are constants in the backward pass
    (section 4.3).
    """

    low: LowRank
    magnitudes: Mapping[Site, Tensor]
    frozen: Mapping[Site, tuple[Tensor, Tensor]]
    norms: Mapping[Site, Tensor]

    def adapts(self, site: Site) -> bool:
        """True when the matrix is decomposed."""
        return self.low.adapts(site)

    def add(self, sites: Sequence[Site], x: Tensor, product: Tensor) -> Tensor:
        """From `product` x W' + bias, compute g (x W' + s x A' B') + bias with g = m / norm."""
        if not any(map(self.adapts, sites)):
            return product
        width = product.shape[-1] // len(sites)
        parts = [self._parts(site, width, x.device) for site in sites]
        magnitude, norm, bias = (torch.cat(part) for part in zip(*parts, strict=True))
        # Subtract 1: 16-bit floats resolve small numbers better than numbers near 1.
        exact = magnitude / norm - 1
        updated = self.low.add(sites, x, product)
        return torch.addcmul(updated - (exact * bias).to(product), updated, exact.to(product))

    def _parts(self, site: Site, width: int, device: torch.device) -> Sequence[Tensor]:
        """(d_out,) magnitude, norm and bias; those that change nothing where none is adapted."""
        if self.adapts(site):
            return self.magnitudes[site], self.norms[site], self.frozen[site][1]
        one = torch.ones(width, device=device)
        return one, one, torch.zeros_like(one)

    def delta(self, site: Site, x: Tensor) -> Tensor | None:
        """(..., d_out) update of the frozen product at `site`; None where there is none."""
        if not self.adapts(site):
            return None
        weight, bias = self.frozen[site]
        product = torch.nn.functional.linear(x, weight, bias.to(weight))
        return self.add((site,), x, product.clone()) - product

    def snapshot(self) -> Any:
        """The random state of the dropout; None without dropout."""
        return self.low.snapshot()

    def rewind(self, snapshot: Any) -> None:
        """Restore a snapshot, so that the masks drawn after it are repeated."""
        self.low.rewind(snapshot)

    def masked(self, masks: Callable[[Masks], Masks]) -> Decomposed:
        """The same weights, with the source of dropout masks replaced by `masks(source)`."""
        return replace(self, low=self.low.masked(masks))

    def for_step(self, dtype: torch.dtype) -> Decomposed:
        """The same weights, with current norms, and updates as `LowRank.for_step` gives them."""
        return replace(self.with_norms(), low=self.low.for_step(dtype))

    @torch.no_grad()
    def with_norms(self) -> Decomposed:
        """The same weights, with `norms` set to the current row norms."""
        norms = {site: row.norm(dim=1) for site, row in self._directions().items()}
        return replace(self, norms=norms)

    def merged(self) -> dict[Site, Tensor]:
        """(d_out, d_in) W' - W of every site."""
        return {
            site: (self.magnitudes[site] / row.norm(dim=1))[:, None] * row - self.frozen[site][0]
            for site, row in self._directions().items()
        }

    def applied(
        self, vision: ImageTower | None, text: TextTower | None
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with W' in place of W."""
        return with_deltas(self.merged(), vision, text)

    def _directions(self) -> dict[Site, Tensor]:
        weights = {site: weight for site, (weight, _) in self.frozen.items()}
        if not fewer_kernels(next(iter(weights.values())).device):
            return {site: weights[site] + delta for site, delta in self.low.merged().items()}
        return {
            site: torch.addmm(weights[site], b, a, alpha=self.low.scaling)
            for site, (a, b) in self.low.factors.items()
        }

    def detached(self) -> Decomposed:
        """The same weights for prediction: no gradients, no dropout."""
        fixed = {site: value.detach() for site, value in self.magnitudes.items()}
        return replace(self, low=self.low.detached(), magnitudes=fixed)

    def parameters(self) -> list[dict[str, Any]]:
        """Parameter groups: A and B; magnitudes, without weight decay, since CLIP's are not 0."""
        return [
            {"params": self.low.parameters()},
            {"params": list(self.magnitudes.values()), "weight_decay": 0.0},
        ]

    def named_tensors(self) -> dict[str, Tensor]:
        """A, B and m by name, such as `vision.0.q.m`."""
        own = {f"{site_name(site)}.m": value for site, value in self.magnitudes.items()}
        return self.low.named_tensors() | own


def decomposed(
    low: LowRank, model: LoraModel, magnitudes: Mapping[Site, Tensor] | None = None
) -> Decomposed:
    """Decompose the updated weights of a model's towers.

    magnitudes: by site; by default new parameters that start at the row norms of CLIP's weights.
    """
    frozen = {}
    for site in low.factors:
        tower = model.vision if site.encoder == "vision" else model.text
        assert tower is not None
        named, weight = tower.parameters(), tower.weight(site).float()
        start, width = f"blocks.{site.layer}.", len(weight)
        if site.matrix in "qkv":
            row = "qkv".index(site.matrix) * width
            bias = named[f"{start}attn.in_proj_bias"][row : row + width]
        else:
            bias = named[start + _BIASES[site.matrix]]
        frozen[site] = (weight, bias.float())
    if magnitudes is None:
        start_at = {site: weight.norm(dim=1) for site, (weight, _) in frozen.items()}
        magnitudes = {site: torch.nn.Parameter(value) for site, value in start_at.items()}
    return Decomposed(low, magnitudes, frozen, {}).with_norms()
