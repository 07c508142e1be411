"""EM-Dirichlet by loops over clusters and queries, in double precision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

EPS = 1e-15


def density(x: Tensor, a: Tensor) -> Tensor:
    """The log density of a point of the simplex under a Dirichlet distribution."""
    return a.sum().lgamma() - a.lgamma().sum() + ((a - 1) * (x + EPS).log()).sum()


def step(a: Tensor, mean: Tensor) -> Tensor:
    """A majorize-minimize step for the parameters a of one distribution with mean log x."""
    c = (2 * (torch.digamma(a + 1) * a - torch.lgamma(a + 1)) / a**2).abs()
    b = torch.digamma(a + 1) - torch.digamma(a.sum()) - c * a - mean
    return (-b + (b**2 + 4 * c).sqrt()) / (2 * c)


def fit(alphas: Tensor, means: Tensor, steps: int) -> Tensor:
    """All distributions (k, d); the steps of all end together.

    `update_alpha` takes `iter_mm` steps (1,000); after steps 50, 100, ..., counted from 0, it stops
    if the squared change of this one step is below 1e-11, and keeps its result.
    """
    for number in range(steps):
        new = torch.stack([step(a, y) for a, y in zip(alphas, means, strict=True)])
        change = (new - alphas).norm() ** 2 / alphas.norm() ** 2
        alphas = new
        if number and number % 50 == 0 and change < 1e-11:
            break
    return alphas


def posteriors(
    batches: Sequence[Tensor],
    penalty: int,
    rounds: int,
    *,
    hard: bool = False,
    together: bool = False,
    steps: int = 1000,
    support: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """log u (n, classes) for the probabilities x (n, classes) of each batch.

    `run_method` takes `iter` rounds (20, hard: 10), none fewer: parameters, then shares of the
    clusters by the last u, then u. It ends with u, and makes it one-hot in every round if hard.

    support: probabilities (s, classes) and labels (s,) of images that stay in their clusters.

    together: as in the official code, steps end by the change in all batches and in all clusters,
    empty ones too, whose mean is -10 and whose parameters are put back.
    """
    near, labels = support or (torch.zeros(0, batches[0].shape[1]), torch.zeros(0).long())
    xs = [batch.double() for batch in batches]
    us, classes = [x.clone() for x in xs], xs[0].shape[1]
    alphas = [torch.ones(classes, classes, dtype=torch.float64) for _ in xs]
    logs: list[Tensor] = []
    for _ in range(rounds):
        shares = [u.mean(dim=0) for u in us]
        masses = [u.sum(dim=0) + labels.bincount(minlength=classes) for u in us]
        means = []
        for x, u, mass in zip(xs, us, masses, strict=True):
            own = [
                sum((near[labels == k] + EPS).log(), torch.zeros(classes)) for k in range(classes)
            ]
            rows = [
                sum((u[i, k] * (x[i] + EPS).log() for i in range(len(x))), own[k]) / mass[k]
                if mass[k] > EPS
                else torch.full((classes,), -10.0)
                for k in range(classes)
            ]
            means.append(torch.stack([row.double() for row in rows]))
        if together:
            news = fit(torch.cat(alphas), torch.cat(means), steps).split(classes)
        else:
            news = tuple(
                _fit_filled(a, y, mass, steps)
                for a, y, mass in zip(alphas, means, masses, strict=True)
            )
        alphas = [
            torch.where(mass[:, None] > EPS, new, old)
            for new, old, mass in zip(news, alphas, masses, strict=True)
        ]
        logs, us = [], []
        for x, share, a in zip(xs, shares, alphas, strict=True):
            dual = (share + EPS).log() + 1
            raw = torch.stack(
                [torch.stack([density(row, a[k]) for k in range(classes)]) for row in x]
            )
            logs.append((raw + penalty * dual).log_softmax(dim=1))
            us.append(logs[-1].exp())
        if hard:
            us = [torch.eye(classes, dtype=torch.float64)[log.argmax(dim=1)] for log in logs]
    return logs


def _fit_filled(alpha: Tensor, means: Tensor, mass: Tensor, steps: int) -> Tensor:
    filled = mass > EPS
    new = alpha.clone()
    new[filled] = fit(alpha[filled], means[filled], steps)
    return new


def match(log_u: Tensor, x: Tensor) -> list[int]:
    """The class of each query: its cluster's, by the best of all one-to-one matchings."""
    found = log_u.argmax(dim=1).tolist()
    clusters = sorted(set(found))
    means = {k: x[[i for i, own in enumerate(found) if own == k]].mean(dim=0) for k in clusters}
    best = max(
        itertools.permutations(range(x.shape[1]), len(clusters)),
        key=lambda classes: sum(float(means[k][c]) for k, c in zip(clusters, classes, strict=True)),
    )
    of = dict(zip(clusters, best, strict=True))
    return [of[k] for k in found]
