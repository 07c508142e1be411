"""Queries that are answered together, and their assignments, for TransCLIP and StatA.

Main entry point: `Group`. An assignment z (n, classes) has rows that sum to one; the classes are
Gaussians with means mu (classes, d) and diagonal variances (classes, d), or (1, d) for a common
one. Products are those of the features and of their squares, so that nothing of size (n, classes,
d) or (n, n) is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_bench import Images
from fsbench_methods.neighbors import Links, nearest_others

STEPS, TEMPERATURE = 5, 50.0
CELLS = 2**18
"""Numbers of a block of rows, which stays in a CPU's cache."""
FLOOR = 1e-8
"""The smallest variance, for queries that are all equal; those of unit features are about 1 / d."""


@dataclass(frozen=True)
class Group:
    """Queries that are answered together.

    scores (n, classes): logits whose softmax is the first assignment. rows (n, d): features minus
    their mean `center`, so that products keep their digits, and `squares` of them. links: blocks of
    rows of (A + A') / 2k, where A has the cosines of each query with the k nearest others.
    """

    scores: Tensor
    center: Tensor
    rows: Tensor
    squares: Tensor
    links: Sequence[Links]

    @classmethod
    def of(cls, features: Tensor, scores: Tensor, neighbors: int) -> Group:
        """The group of unit features (n, d)."""
        cosines, others = nearest_others(features, neighbors)
        center = features.mean(dim=0)
        rows = features - center
        links = Links.both_ways(cosines / (2 * neighbors), others)
        size = max(1, CELLS // scores.shape[1])
        return cls(scores, center, rows, rows.square(), links.split(size))

    def prior(self, start: Tensor, mu: Tensor, variance: Tensor) -> Tensor:
        """(n, classes): `start` and log densities over the temperature, but for row constants."""
        precision, shifted = 1 / variance, mu - self.center
        constant = (shifted.square() * precision + variance.log()).sum(dim=1)
        prior = torch.addmm(start, self.rows, (shifted * precision / TEMPERATURE).T)
        if len(precision) > 1:
            prior.addmm_(self.squares, precision.T, alpha=-0.5 / TEMPERATURE)
        return prior.sub_(constant / (2 * TEMPERATURE))

    def assign(self, z: Tensor, prior: Tensor, *, log: bool = False) -> Tensor:
        """(n, classes): z after five steps z = softmax(prior + links z), or its logarithm.

        Overwrites z, as steps write into two tensors in turn.
        """
        into = torch.empty_like(z)
        for left in reversed(range(STEPS)):
            scale = torch.log_softmax if log and not left else torch.softmax
            done = 0
            for links in self.links:
                block = slice(done, done + len(links.starts) - 1)
                into[block] = scale((links @ z).add_(prior[block]), dim=1)
                done = block.stop
            z, into = into, z
        return z

    def sums(self, z: Tensor) -> Sums:
        """The sums over all queries, weighted by z."""
        return Sums(self, z, z.sum(dim=0)[:, None], z.T @ self.rows)


@dataclass(frozen=True)
class Sums:
    """Sums over a group, weighted by z: of ones (classes, 1) and of `rows` (classes, d)."""

    group: Group
    z: Tensor
    mass: Tensor
    linear: Tensor

    @property
    def features(self) -> Tensor:
        """(classes, d): the sums of the features."""
        return self.linear + self.mass * self.group.center

    def spread(self, mu: Tensor) -> Tensor:
        """(classes, d): the sums of (q - mu)^2."""
        return (self.z.T @ self.group.squares + self._cross(mu)).clamp_min_(0)

    def total_spread(self, mu: Tensor) -> Tensor:
        """(d,): the same over all classes together, as rows of z sum to one."""
        return (self.group.squares.sum(dim=0) + self._cross(mu).sum(dim=0)).clamp_min_(0)

    def _cross(self, mu: Tensor) -> Tensor:
        shifted = mu - self.group.center
        return shifted * (self.mass * shifted - 2 * self.linear)


def start_scores(queries: Images, class_features: Tensor, scale: float, on: str) -> Tensor:
    """(n, classes): logits of the method `on`, or the zero-shot ones if it is empty."""
    return queries.scores if on else scale * queries.features @ class_features.T


def report(queries: Images, total: int) -> Iterator[int]:
    """Numbers of rounds, 0 to `total` - 1, which are reported as progress when they begin."""
    for done in range(total):
        queries.progress(done, total)
        yield done
