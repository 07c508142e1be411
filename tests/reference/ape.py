"""APE's and APE-T's mathematics: channels by four loops, constants by three, keys written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_scores(text: Tensor, keys: Tensor, labels: Tensor, weight: float) -> Tensor:
    """(d,) -weight * mean product of rows of different classes + (1 - weight) * variance."""
    rows = [[text[i], *keys[labels == i]] for i in range(len(text))]
    total, count = torch.zeros_like(text[0]), 0
    for i, mine in enumerate(rows):
        for j, theirs in enumerate(rows):
            for one in mine:
                for other in theirs:
                    if i != j:
                        total = total + one * other
                        count += 1
    mean = sum(text) / len(text)
    variance = sum((row - mean) ** 2 for row in text) / (len(text) - 1)
    return -weight * total / count + (1 - weight) * variance


def narrow(rows: Tensor, channels: Tensor) -> Tensor:
    """Rows on the channels alone, at unit length."""
    return rows[:, channels] / rows[:, channels].norm(dim=-1, keepdim=True)


def divergences(text: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """(m,) sum over classes of onehot log2((onehot + 1e-6) / (p + 1e-6)), p by unscaled cosines."""
    target, p = F.one_hot(labels, len(text)).to(keys.dtype), (keys @ text.T).softmax(dim=-1)
    return (target * torch.log2((target + 1e-6) / (p + 1e-6))).sum(dim=-1)


def logits(
    features: Tensor,
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    channels: Tensor,
    scale: float,
    constants: tuple[float, float, float],
) -> Tensor:
    """APE: scale f W' + alpha exp(-beta (1 - f_q K_q')) (onehot * exp(gamma KL))."""
    beta, alpha, gamma = constants
    cached, words = narrow(keys, channels), narrow(text, channels)
    value = torch.exp(gamma * divergences(words, cached, labels))[:, None]
    values = F.one_hot(labels, len(text)).to(keys.dtype) * value
    affinity = narrow(features, channels) @ cached.T
    return scale * features @ text.T + alpha * torch.exp(-beta * (1 - affinity)) @ values


def search(
    features: Tensor,
    targets: Tensor,
    zero_shot: Tensor,
    keys: Tensor,
    labels: Tensor,
    weights: Tensor,
    grids: tuple[list[float], list[float]],
) -> tuple[float, float, int, int]:
    """First best beta, alpha and column of weights (m, g), and the number of correct answers.

    main.py goes through beta, alpha, gamma in this order, and replaces the best only by a larger
    accuracy. Of `search_step` points up to `search_scale`, the last one is a step below it.
    """
    values, best = F.one_hot(labels, zero_shot.shape[1]).to(keys.dtype), (0.0, 0.0, 0, -1)
    for beta in grids[0]:
        activation = torch.exp(-beta * (1 - features @ keys.T))
        for alpha in grids[1]:
            for column in range(weights.shape[1]):
                cached = activation @ (values * weights[:, column, None])
                correct = int(((zero_shot + alpha * cached).argmax(dim=-1) == targets).sum())
                if correct > best[3]:
                    best = beta, alpha, column, correct
    return best


def trained_logits(
    features: Tensor,
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    channels: Tensor,
    residual: Tensor,
    weights: Tensor,
    constants: tuple[float, float, float],
) -> Tensor:
    """APE-T: the residual (classes, q) is added to texts and keys; all channels, no norms."""
    scale, beta, alpha = constants
    added = torch.zeros_like(text)
    added[:, channels] = added[:, channels] + residual
    values = F.one_hot(labels, len(text)).to(keys.dtype) * weights[:, None]
    cached = torch.exp(-(beta - beta * features @ (keys + added[labels]).T)) @ values
    return scale * features @ (text + added).T + alpha * cached


def train(
    views: list[Tensor],
    orders: list[list[Tensor]],
    text: Tensor,
    keys: Tensor,
    labels: Tensor,
    channels: Tensor,
    constants: tuple[float, float, float],
    lr: float,
) -> tuple[Tensor, Tensor]:
    """Residual and weights after AdamW on the given batches, with torch's cosine by batch.

    `APE_T` takes `train_epoch` epochs, and lowers the rate after every batch, to 0 after the last.
    """
    residual = torch.nn.Parameter(torch.zeros(len(text), len(channels)))
    weights = torch.nn.Parameter(torch.ones(len(keys)))
    optimizer = torch.optim.AdamW([residual, weights], lr=lr, eps=1e-3, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, sum(map(len, orders)))
    for features, order in zip(views, orders, strict=True):
        for index in order:
            parts = text, keys, labels, channels, residual, weights, constants
            loss = F.cross_entropy(trained_logits(features[index], *parts), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return residual.detach(), weights.detach()
