"""What TransCLIP and StatA share: queries that are answered together, and their assignments.

Main entry point: `Group`. An assignment z (n, classes) has rows that sum to one; the classes are
Gaussians with means mu (classes, d) and diagonal variances (classes, d), or (1, d) for a common
one. Products are those of the features and of their squares, so that nothing of size (n, classes,
d) or (n, n) is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_bench import Images
from fsbench_methods.neighbors import Links, nearest_others

STEPS, TEMPERATURE = 5, 50.0
FLOOR = 1e-8
"""The smallest variance, for queries that are all equal; those of unit features are about 1 / d."""


@dataclass(frozen=True)
class Group:
    """Queries that are answered together.

    scores (n, classes): logits whose softmax is the first assignment. rows (n, d): features minus
    their mean `center`, so that products keep their digits, and `squares` of them. links (n, n):
    A + A', where A has the cosines of each query with its nearest others, `neighbors` of them if
    there are as many.
    """

    scores: Tensor
    center: Tensor
    rows: Tensor
    squares: Tensor
    links: Links
    neighbors: int

    @classmethod
    def of(cls, features: Tensor, scores: Tensor, neighbors: int) -> Group:
        """The group of unit features (n, d)."""
        links = Links.both_ways(*nearest_others(features, neighbors))
        center = features.mean(dim=0)
        rows = features - center
        return cls(scores, center, rows, rows.square(), links, neighbors)

    def assign(self, z: Tensor, prior: Tensor) -> Tensor:
        """(n, classes): logits of z after five steps z = softmax(prior + (A + A') z / 2k)."""
        for _ in range(STEPS):
            logits = (self.links @ z).div_(2 * self.neighbors).add_(prior)
            z = logits.softmax(dim=1)
        return logits

    def densities(self, mu: Tensor, variance: Tensor) -> Tensor:
        """(n, classes): log densities of the queries over the temperature, without constants."""
        precision, shifted = 1 / variance, mu - self.center
        constant = (shifted.square() * precision + variance.log()).sum(dim=1)
        products = torch.addmm(constant, self.rows, (-2 * shifted * precision).T)
        return products.add_(self.squares @ precision.T).mul_(-0.5 / TEMPERATURE)

    def sums(self, z: Tensor) -> Tensor:
        """(classes, d): sums of the features, weighted by z."""
        return z.T @ self.rows + z.sum(dim=0)[:, None] * self.center

    def spread(self, z: Tensor, mu: Tensor) -> Tensor:
        """(classes, d): sums of (q - mu)^2, weighted by z."""
        shifted = mu - self.center
        linear = z.sum(dim=0)[:, None] * shifted - 2 * (z.T @ self.rows)
        return (z.T @ self.squares + shifted * linear).clamp_min_(0)


def start_scores(queries: Images, class_features: Tensor, scale: float, on: str) -> Tensor:
    """(n, classes): logits of the method `on`, or the zero-shot ones if it is empty."""
    return queries.scores if on else scale * queries.features @ class_features.T
