"""Tip-Adapter's mathematics, with the search as two plain loops."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cache_keys(raw_views: Tensor) -> Tensor:
    """Cache keys (m, width): mean of raw features (views, m, width), then scaled to unit length."""
    mean = sum(raw_views) / len(raw_views)
    return mean / mean.norm(dim=-1, keepdim=True)


def logits(
    features: Tensor,
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    scale: float,
    beta: float,
    alpha: float,
) -> Tensor:
    """Tip-Adapter: scale f W' + alpha exp(-(beta - beta f K')) V with one-hot V."""
    values = F.one_hot(labels, len(text)).float()
    affinity = features @ keys.T
    return scale * features @ text.T + alpha * (-1 * (beta - beta * affinity)).exp() @ values


def search(
    features: Tensor,
    targets: Tensor,
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    scale: float,
    scales: tuple[float, float],
) -> tuple[float, float, list[int]]:
    """First best (beta, alpha) on the official grid, and the correct answers at each point."""
    best, chosen, counts = -1, (0.0, 0.0), []
    for beta in [i * (scales[0] - 0.1) / 200 + 0.1 for i in range(200)]:
        for alpha in [i * (scales[1] - 0.1) / 20 + 0.1 for i in range(20)]:
            answer = logits(features, text, keys, labels, scale, beta, alpha).argmax(dim=-1)
            correct = int((answer == targets).sum())
            counts.append(correct)
            if correct > best:
                best, chosen = correct, (beta, alpha)
    return (*chosen, counts)


def train_keys(
    views: list[Tensor],
    orders: list[list[Tensor]],
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    scale: float,
    beta: float,
    alpha: float,
    lr: float,
    eps: float,
) -> Tensor:
    """Tip-Adapter-F's keys: AdamW on the given batches, torch's cosine stepped after each batch."""
    layer = torch.nn.Linear(keys.shape[1], keys.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(keys.clone())
    optimizer = torch.optim.AdamW(layer.parameters(), lr=lr, eps=eps)
    total = sum(len(order) for order in orders)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for features, order in zip(views, orders, strict=True):
        for index in order:
            out = logits(features[index], text, layer.weight, labels, scale, beta, alpha)
            loss = F.cross_entropy(out, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return layer.weight.detach()
