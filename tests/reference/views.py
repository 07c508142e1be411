"""MTA, ZERO and TPT for one query, from the features (v, d) of its views: plain loops.

Each accident of an official code that ours leaves out is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def entropies(logits: Tensor) -> Tensor:
    """(v,) entropies of rows of logits (v, classes)."""
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def mta_mode(views: Tensor, text: Tensor, scale: float, floor: float = 1e-6) -> Tensor:
    """(d,) the mode of the views. floor: of squared bandwidths; 0 as in the official code.

    `solve_mta` takes 5 rounds, none fewer; in each at most 5 steps for the scores, whose kernel is
    that of the round's first mode, and at most 5 for the mode, whose kernel is new in each step.
    Either ends after a change below 1e-6, which counts. The int(0.3 (v - 1)) nearest others give a
    bandwidth.
    """
    count, nearest = len(views), max(1, int(0.3 * (len(views) - 1)))
    h = []
    for p in range(count):
        squares = ((views - views[p]) ** 2).sum(1).tolist()
        others = sorted(squares[:p] + squares[p + 1 :])
        h.append(max(floor, 0.5 * sum(others[:nearest]) / nearest))
    width = torch.tensor(h)
    p = (scale * views @ text.T).softmax(1)
    affinity = p @ p.T

    def kernel(mode: Tensor) -> Tensor:
        return torch.exp(-((views - mode) ** 2).sum(1) / (2 * width))

    y, mode = torch.full((count,), 1 / count), views[0]
    for _ in range(5):
        k = kernel(mode)
        for _ in range(5):
            old, y = y, ((k + 4 * affinity @ y) / 0.2).softmax(0)
            if (y - old).norm() < 1e-6:
                break
        for _ in range(5):
            weights = kernel(mode) * y
            old, mode = mode, (weights[:, None] * views).sum(0) / weights.sum()
            mode = mode / mode.norm()
            if (mode - old).norm() < 1e-6:
                break
    return mode


def zero_shares(views: Tensor, text: Tensor, scale: float, temperature: float = 0.0) -> Tensor:
    """(classes,) votes of the 30 % most certain views, before ties are broken.

    `confidence_filter` keeps int(0.3 v) views: 19 of 64.

    temperature: 0 for exact votes; the machine epsilon of a type as in the official code, where
    close classes share a vote.
    """
    cosines = views @ text.T
    order = entropies(scale * cosines).argsort(stable=True)[: int(0.3 * len(views))]
    votes = torch.zeros(len(text))
    for view in order:
        if temperature:
            votes += (cosines[view].float() / temperature).softmax(0)
        else:
            votes[cosines[view].argmax()] += 1
    return votes


def zero_class(views: Tensor, text: Tensor, scale: float) -> int:
    """The class with most votes; of several the first that one of the other views predicts.

    `greedy_break` goes through the views that were not kept, from the most certain one.
    """
    votes = zero_shares(views, text, scale)
    tied = (votes == votes.max()).nonzero().flatten().tolist()
    order = entropies(scale * views @ text.T).argsort(stable=True).tolist()
    kept = int(0.3 * len(views))
    for view in [*order[kept:], *order[:kept]]:
        found = int((views[view] @ text.T).argmax())
        if found in tied:
            return found
    raise AssertionError


def tpt_logits(
    encode: Callable[[Tensor], Tensor],
    context: Tensor,
    queries: Tensor,
    scale: float,
    *,
    steps: int = 1,
    growth: int = 0,
    factor: float = 1000.0,
) -> tuple[Tensor, list[int]]:
    """Logits (n, classes) of queries (n, v, d), and the queries that got no step.

    `test_time_tuning` takes `tta_steps` steps (1); the first one chooses int(0.1 v) views, 6 of 64,
    which the others keep. Context and AdamW start anew for every query.

    encode: a context (M, width) to class features (classes, d), not of unit length. growth: 0 for
    no loss scaler; else one scaler for the whole run, which starts at `factor` and doubles every
    `growth` queries, with gradients in half precision: the official code's, where it is 2,000.
    """
    rows, skipped, since = [], [], 0

    def score(own: Tensor, features: Tensor) -> Tensor:
        classes = encode(own)
        return scale * features @ (classes / classes.norm(dim=1, keepdim=True)).T

    for number, views in enumerate(queries):
        own = context.clone().requires_grad_()
        optimizer = torch.optim.AdamW([own], lr=5e-3)
        chosen = None
        for _ in range(steps):
            logits = score(own, views)
            if chosen is None:
                chosen = entropies(logits).argsort(stable=True)[: int(0.1 * len(views))]
            mean = logits[chosen].softmax(1).mean(0)
            loss = -(mean * mean.log()).sum()
            own.grad = None
            loss.backward()
            assert own.grad is not None
            if growth:
                scaled = (own.grad * factor).half().float()
                if not scaled.isfinite().all():
                    skipped.append(number)
                    factor, since = factor / 2, 0
                    continue
                own.grad, since = scaled / factor, since + 1
                if since == growth:
                    factor, since = 2 * factor, 0
            optimizer.step()
        rows.append(score(own, views[:1])[0].detach())
    return torch.stack(rows), skipped
