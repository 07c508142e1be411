"""AdaLoRA as a plain loop: s P diag(E) Q added to every matrix, importance matrix by matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot_bench.backbones import Site
from tests.reference.clip_lora import loss

Triplets = Mapping[Site, tuple[Tensor, Tensor, Tensor]]
"""Q (rank, d_in), P (d_out, rank), E (rank,)."""


def factors(triplets: Triplets) -> dict[Site, tuple[Tensor, Tensor]]:
    """A = diag(E) Q and B = P of every matrix, for the LoRA reference."""
    return {site: (torch.diag(e) @ q, p) for site, (q, p, e) in triplets.items()}


def orthogonality(triplets: Triplets) -> Tensor:
    """Mean Frobenius norm of Q Q' - I and P' P - I over all matrices (eq. 4)."""
    total = torch.zeros(())
    for q, p, _ in triplets.values():
        eye = torch.eye(len(q))
        for gram in (q @ q.T, p.T @ p):
            total = total + (gram - eye).square().sum().sqrt()
    return total / (2 * len(triplets))


def budget(step: int, steps: int, warm: int, final: int, first: int, last: int) -> int:
    """Number of triplets kept after `step` steps: cubic decay from `first` to `last` (eq. 12)."""
    if step <= warm:
        return first
    if step >= steps - final:
        return last
    left = 1 - (step - warm) / (steps - final - warm)
    return last + int((first - last) * left**3)


def fitted(
    module: Any,
    batches: Sequence[tuple[Tensor, Tensor]],
    tokens: Tensor,
    triplets: Triplets,
    scaling: float,
    *,
    warm: int,
    final: int,
    last: int,
    rate: float,
    weight: float,
    smooth: float = 0.85,
) -> dict[Site, tuple[Tensor, ...]]:
    """Triplets after one AdamW step per batch; pruned ones have E = 0 (sections 3.2 and 3.3)."""
    kept: dict[Site, Any] = {
        site: tuple(x.detach().clone().requires_grad_() for x in triplet)
        for site, triplet in triplets.items()
    }
    every = [x for triplet in kept.values() for x in triplet]
    optimizer = torch.optim.AdamW(every, lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches), 1e-6)
    mean, doubt = ([torch.zeros_like(x) for x in every] for _ in range(2))
    first = sum(len(e) for *_, e in kept.values())
    alive: dict[Site, Tensor] = {}
    for step, (pixels, labels) in enumerate(batches, start=1):
        optimizer.zero_grad()
        found, _ = loss(module, pixels, labels, [tokens], factors(kept), scaling)
        (found + weight * orthogonality(kept)).backward()
        with torch.no_grad():
            for i, x in enumerate(every):
                now = (x * x.grad).abs()
                mean[i] = smooth * mean[i] + (1 - smooth) * now
                doubt[i] = smooth * doubt[i] + (1 - smooth) * (now - mean[i]).abs()
        optimizer.step()
        schedule.step()
        if step > warm:
            if step <= len(batches) - final:
                allowed = budget(step, len(batches), warm, final, first, last)
                alive = _alive(kept, [a * b for a, b in zip(mean, doubt, strict=True)], allowed)
            for site, (*_, e) in kept.items():
                e.data *= alive[site]
    return {site: tuple(x.detach() for x in triplet) for site, triplet in kept.items()}


def _alive(kept: Mapping[Site, Any], scores: list[Tensor], allowed: int) -> dict[Site, Tensor]:
    """Masks (rank,) per matrix: 1 for the `allowed` highest-scoring triplets of all matrices."""
    ranked = []
    for i, site in enumerate(kept):
        q, p, e = scores[3 * i : 3 * i + 3]
        for rank in range(len(e)):
            ranked.append((float(e[rank] + q[rank].mean() + p[:, rank].mean()), site, rank))
    ranked.sort(key=lambda one: -one[0])
    alive = {site: torch.zeros(len(triplet[2])) for site, triplet in kept.items()}
    for _, site, rank in ranked[:allowed]:
        alive[site][rank] = 1.0
    return alive
