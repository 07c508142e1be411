"""Tip-Adapter's key-value cache and the search for its two constants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.training.provisional import row_blocks

BLOCKS = {"cpu": 2**18, "other": 2**24}
"""Elements of the largest temporary tensor: fits into a CPU's cache, or fills an accelerator."""


@dataclass(frozen=True)
class Cache:
    """Keys (m, width) and labels (m,), sorted by label; the values are the one-hot labels."""

    keys: Tensor
    labels: Tensor
    classes: int
    balanced: bool

    @classmethod
    def build(cls, keys: Tensor, labels: Tensor, classes: int) -> Cache:
        """A cache of the given keys, in the order of their labels."""
        order = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=classes)
        balanced = bool((counts == counts[0]).all())
        return cls(keys[order], labels[order], classes, balanced)

    def with_keys(self, keys: Tensor) -> Cache:
        """The same cache with other keys (in this cache's order)."""
        return replace(self, keys=keys)

    def affinity(self, features: Tensor) -> Tensor:
        """(n, m) products of unit features with the keys."""
        return features @ self.keys.T

    def per_class(self, activation: Tensor) -> Tensor:
        """(n, m) activations times the one-hot values: (n, classes)."""
        if self.balanced:
            return activation.view(activation.shape[0], self.classes, -1).sum(dim=-1)
        # F.one_hot reads the labels on the host, so that no step with it can be captured.
        every = torch.arange(self.classes, device=self.labels.device)
        return activation @ (self.labels[:, None] == every).to(activation.dtype)

    def per_image(self, scores: Tensor) -> Tensor:
        """(n, classes) numbers of the classes, as those of each key's class: (n, m)."""
        if self.balanced:
            images = len(self.keys) // self.classes
            return scores[:, :, None].expand(-1, -1, images).flatten(1)
        return scores[:, self.labels]

    def logits(self, affinity: Tensor, beta: float) -> Tensor:
        """(n, classes): exp(-(beta - beta * affinity)) V (Tip-Adapter main.py:39-42)."""
        return self.per_class(torch.exp(beta * affinity - beta))

    @torch.no_grad()
    def blended(
        self, features: Tensor, class_features: Tensor, scale: float, beta: float, alpha: float
    ) -> Tensor:
        """(n, classes): scale * f W' + alpha * cache logits, in blocks of queries."""
        size = largest_block(features, len(self.keys))
        parts = [
            scale * block @ class_features.T + alpha * self.logits(self.affinity(block), beta)
            for block in row_blocks(features, size)
        ]
        return torch.cat(parts)


def largest_block(features: Tensor, row: int) -> int:
    """The number of queries in a block when each takes `row` elements."""
    return max(1, BLOCKS.get(features.device.type, BLOCKS["other"]) // max(1, row))


@dataclass(frozen=True)
class Choice:
    """The chosen constants, and their number of correctly classified validation images."""

    beta: float
    alpha: float
    correct: int


def grid(scale: float, points: int) -> list[float]:
    """`i * (scale - 0.1) / points + 0.1` for i < points (Tip-Adapter utils.py)."""
    return [i * (scale - 0.1) / points + 0.1 for i in range(points)]


@torch.no_grad()
def search(
    cache: Cache,
    features: Tensor,
    labels: Tensor,
    zero_shot: Tensor,
    betas: list[float],
    alphas: list[float],
) -> Choice:
    """The first best (beta, alpha), as a plain double loop with beta outside finds it.

    features (n, width) and labels (n,): validation set; zero_shot (n, classes): its zero-shot
    logits. Affinities are computed once, activations once per beta, and all alphas are scored
    together. A tie for the largest logit counts as correct.
    """
    counts = torch.zeros(len(betas), len(alphas), dtype=torch.int64, device=features.device)
    weights = torch.tensor(alphas, device=features.device)[:, None, None]
    size = largest_block(features, max(len(cache.keys), len(alphas) * cache.classes))
    parts = (torch.split(whole, size) for whole in (features, labels, zero_shot))
    for block, targets, base in zip(*parts, strict=True):
        affinity, own = cache.affinity(block), targets[:, None]
        activation = torch.empty_like(affinity)
        logits = base.new_empty(len(alphas), *base.shape)
        for row, beta in enumerate(betas):
            torch.mul(affinity, beta, out=activation)
            cached = cache.per_class(activation.sub_(beta).exp_())
            torch.mul(weights, cached, out=logits)
            largest = logits.add_(base).amax(dim=-1)
            # Rounded twice, like the logits of all classes, so that equal logits compare equal.
            true = weights[:, 0] * cached.gather(1, own).T + base.gather(1, own).T
            counts[row] += (true >= largest).sum(dim=-1)
    flat = counts.flatten().cpu().numpy()
    best = int(np.argmax(flat))
    return Choice(betas[best // len(alphas)], alphas[best % len(alphas)], int(flat[best]))
