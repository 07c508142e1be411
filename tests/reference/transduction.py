"""TransCLIP and StatA written out from their equations, with dense matrices and loops over classes.

q (n, d) queries, f (s, d) support images and t (classes, d) class features have unit rows; y
(n, classes) is the softmax of the logits of which the methods start. Each accident of the official
code is an argument, off by default.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBORS, INNER, TEMPERATURE = 3, 5, 50.0


def affinity(q: Tensor, keys: Tensor | None = None, *, dropped: bool = False) -> Tensor:
    """(m, n): the cosine of each key with its nearest queries, else 0; by default among queries.

    Accident: with `dropped`, the nearest query of a key is left out as if it were the key itself.
    """
    cosines = q @ q.T if keys is None else keys @ q.T
    hidden = cosines.clone()
    if keys is None:
        hidden.fill_diagonal_(-torch.inf)
    elif dropped:
        hidden.scatter_(1, hidden.argmax(dim=1, keepdim=True), -torch.inf)
    count = min(NEIGHBORS, len(q) - (keys is None or dropped))
    places = hidden.topk(count, dim=1).indices
    return torch.zeros_like(cosines).scatter(1, places, cosines.gather(1, places))


def first_means(q: Tensor, y: Tensor) -> Tensor:
    """mu of TransCLIP-ZS: the unit mean of y q over the eight queries with the largest y."""
    rows = []
    for column in y.T:
        best = column.argsort(descending=True, stable=True)[:8]
        rows.append(F.normalize((column[best, None] * q[best]).mean(dim=0), dim=0))
    return torch.stack(rows)


def transclip(
    q: Tensor,
    y: Tensor,
    support: tuple[Tensor, Tensor] | None = None,
    gammas: Sequence[float] = (0.0,),
    rounds: int = 10,
    *,
    aliased: bool = False,
    misaligned: bool = False,
    dropped: bool = False,
    chained: bool = False,
    classes: int | None = None,
) -> list[Tensor]:
    """z (n, classes) after all rounds and a last assignment, for each gamma.

    TransCLIP_solver has `for k in range(max_iter + 1)` and stops after the assignment of k =
    max_iter: 11 assignments of `max_iter=5` steps each, 10 updates of means and variance. Nothing
    tests for convergence.

    support: features and labels; with them, y counts as its square root. Accidents: `aliased`, the
    anchor y is overwritten by z; `misaligned`, rows of the affinity are (support, queries), those
    of z (queries, support); `dropped`, as in `affinity`; `chained`, each gamma goes on where the
    last one ended; `classes`, counted from labels of queries.
    """
    (n, d), c = q.shape, y.shape[1] if classes is None else classes
    f, labels = (q[:0], torch.zeros(0, dtype=torch.int64)) if support is None else support
    fixed = F.one_hot(labels, y.shape[1]).to(y.dtype)
    w = torch.cat([affinity(q, f, dropped=dropped), affinity(q)])
    results: list[Tensor] = []
    z = mu = var = torch.empty(0)
    for gamma in gammas:
        if not (chained and results):
            z = y.clone()
            mu = first_means(q, y)[:c] if support is None else F.normalize(fixed.T @ f, dim=1)
            var = torch.full((d,), 1 / d, dtype=q.dtype)
        for last in [False] * rounds + [True]:
            g = torch.stack([-0.5 * ((q - m).square() / var).sum(dim=1) for m in mu], dim=1)
            for _ in range(INNER):
                stacked = torch.cat([z, fixed] if misaligned else [fixed, z])
                pulled = w.T @ stacked + (w @ z)[: n if misaligned else None][-n:]
                anchor = y.log() * (1.0 if support is None else 0.5)
                z = (anchor + g / TEMPERATURE + pulled / (2 * NEIGHBORS)).softmax(dim=1)
                y = z if aliased else y
            if last:
                break
            weight = TEMPERATURE * gamma / max(1, len(f))
            mu = F.normalize(z.T @ q / n + weight * fixed.T @ f, dim=1)
            spread = torch.zeros(d, dtype=q.dtype)
            for k, m in enumerate(mu):
                spread += (z[:, k, None] * (q - m).square()).sum(dim=0) / n
                spread += weight * (fixed[:, k, None] * (f - m).square()).sum(dim=0)
            var = spread / (1 + TEMPERATURE * gamma)
        results.append(z)
    return results


def choose(q: Tensor, val: tuple[Tensor, Tensor], results: Sequence[Tensor]) -> int:
    """The first z with most right answers, those of validation images being of nearest queries.

    TransCLIP_solver replaces the best only by a larger accuracy.
    """
    nearest = (val[0] @ q.T).argmax(dim=1)
    right = [int((z.argmax(dim=1)[nearest] == val[1]).sum()) for z in results]
    return right.index(max(right))


def first_variance(q: Tensor, t: Tensor, y: Tensor, chunk: int | None = None) -> Tensor:
    """V0 (d,) of StatA. Accident: with `chunk`, divided by n after every so many queries."""
    total = torch.zeros(q.shape[1], dtype=q.dtype)
    size = chunk or len(q)
    for rows, weights in zip(q.split(size), y.split(size), strict=True):  # type: ignore[no-untyped-call]
        for k, anchor in enumerate(t):
            total += (weights[:, k, None] * (rows - anchor).square()).sum(dim=0)
        total = total / len(q)
    return total


def stata(
    q: Tensor,
    t: Tensor,
    y: Tensor,
    alpha: float = 1.0,
    chunk: int | None = None,
    rounds: int = 10,
) -> Tensor:
    """z (n, classes) after all rounds and a last assignment. chunk: as in `first_variance`.

    StatA_solver has the loop of `transclip`: 11 assignments of five steps, 10 updates of the
    classes.
    """
    w = affinity(q)
    v0 = first_variance(q, t, y, chunk)
    z, mu, var = y, t.clone(), v0.expand(t.shape).clone()
    for last in [False] * rounds + [True]:
        columns = zip(mu, var, strict=True)
        g = [-0.5 * ((q - m).square() / v + v.log()).sum(dim=1) for m, v in columns]
        for _ in range(INNER):
            pulled = (w + w.T) @ z / (2 * NEIGHBORS)
            z = (y.log() + torch.stack(g, dim=1) / TEMPERATURE + pulled).softmax(dim=1)
        if last:
            break
        for k, anchor in enumerate(t):
            hard, soft = (z.argmax(dim=1) == k).sum(), z[:, k, None]
            if not hard:
                mu[k], var[k] = anchor, v0
                continue
            b = hard / (hard + alpha)
            mean = F.normalize((soft * q).sum(dim=0) / soft.sum(), dim=0)
            mu[k] = F.normalize(b * mean + (1 - b) * anchor, dim=0)
            own = (soft * (q - mu[k]).square()).sum(dim=0) / soft.sum()
            var[k] = b * own + (1 - b) * (v0 + (anchor - mu[k]).square())
    return z
