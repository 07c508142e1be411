"""Methods on frozen features written out from their papers, with loops and torch's own schedulers.

Features are unit rows unless their name contains `raw`; labels index the rows of `text`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.coop import dassl_rates

Batches = Sequence[tuple[Tensor, Tensor]]
"""Features and labels of the minibatches of one epoch."""


def train(
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    epochs: Sequence[Batches],
    rates: Sequence[float],
) -> None:
    """Take one optimizer step per minibatch, at the learning rate of its epoch."""
    for batches, rate in zip(epochs, rates, strict=True):
        for features, labels in batches:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss(features, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def taskres_logits(features: Tensor, raw_text: Tensor, x: Tensor, alpha: float, s: float) -> Tensor:
    """TaskRes: s cos(f, t + alpha x), class by class."""
    columns = [
        s * F.cosine_similarity(features, (t + alpha * residual)[None], dim=-1)
        for t, residual in zip(raw_text, x, strict=True)
    ]
    return torch.stack(columns, dim=1)


def taskres_fit(
    epochs: Sequence[Batches], raw_text: Tensor, alpha: float, s: float, lr: float
) -> Tensor:
    """Residual after all epochs of Adam with an L2 penalty of 5e-4, at Dassl's rates."""
    x = torch.zeros_like(raw_text, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=lr, weight_decay=5e-4)
    train(
        lambda f, y: F.cross_entropy(taskres_logits(f, raw_text, x, alpha, s), y),
        optimizer,
        epochs,
        dassl_rates(lr, 1e-5, len(epochs)),
    )
    return x.detach()


def adapter(down: Tensor, up: Tensor) -> torch.nn.Module:
    """CLIP-Adapter's bottleneck as a module with the given weights."""
    module = torch.nn.Sequential(
        torch.nn.Linear(down.shape[1], down.shape[0], bias=False),
        torch.nn.ReLU(),
        torch.nn.Linear(up.shape[1], up.shape[0], bias=False),
        torch.nn.ReLU(),
    )
    module[0].weight.data.copy_(down)
    module[2].weight.data.copy_(up)
    return module


def adapter_logits(
    raw: Tensor, text: Tensor, module: torch.nn.Module, ratio: float, s: float
) -> Tensor:
    """CLIP-Adapter: s cos(ratio g(f) + (1 - ratio) f, t)."""
    mixed = ratio * module(raw) + (1 - ratio) * raw
    return s * mixed / mixed.norm(dim=-1, keepdim=True) @ text.T


def adapter_fit(
    epochs: Sequence[Batches], text: Tensor, module: torch.nn.Module, ratio: float, s: float
) -> None:
    """Train the bottleneck in place: SGD 2e-3 with momentum and weight decay, Dassl's rates."""
    optimizer = torch.optim.SGD(module.parameters(), lr=2e-3, momentum=0.9, weight_decay=5e-4)
    train(
        lambda f, y: F.cross_entropy(adapter_logits(f, text, module, ratio, s), y),
        optimizer,
        epochs,
        dassl_rates(2e-3, 1e-5, len(epochs)),
    )


def gaussians(points: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """GDA's W (classes, d) and b (classes,), class by class; covariance by torch.cov in float64."""
    points = points.double()
    means = [points[labels == k].mean(dim=0) for k in range(classes)]
    centered = torch.cat([points[labels == k] - means[k] for k in range(classes)])
    n, d = centered.shape
    covariance = centered.T.cov()
    precision = d * torch.linalg.pinv((n - 1) * covariance + covariance.trace() * torch.eye(d))
    weight = torch.stack([precision @ mean for mean in means])
    offsets = [-torch.log(torch.tensor(float(classes))) - m @ precision @ m / 2 for m in means]
    return weight, torch.stack(offsets)


def gda_logits(
    features: Tensor, text: Tensor, weight: Tensor, bias: Tensor, alpha: float, s: float
) -> Tensor:
    """GDA: s f t + alpha (f W + b)."""
    return s * features @ text.T + alpha * (features.double() @ weight.T + bias)


def gda_alpha(
    features: Tensor, targets: Tensor, text: Tensor, weight: Tensor, bias: Tensor, s: float
) -> float:
    """First of the seven alphas with the most correct validation images."""
    best, chosen = -1, 0.0
    for alpha in [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]:
        answers = gda_logits(features, text, weight, bias, alpha, s).argmax(dim=-1)
        if int((answers == targets).sum()) > best:
            best, chosen = int((answers == targets).sum()), alpha
    return chosen


def lp_plus_plus(
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    bias: Tensor,
    val: tuple[Tensor, Tensor] | None,
    epochs: int = 300,
) -> tuple[list[Tensor], int]:
    """[w, b, alpha] of the kept epoch, and its index; alpha's gradient accumulates over epochs."""
    count, classes = len(labels), len(text)
    w = torch.stack([features[labels == k].sum(dim=0) for k in range(classes)])
    means = [(features[labels == k] @ text[k]).mean() for k in range(classes)]
    alpha = torch.full((classes,), 250 * float(torch.stack(means).mean()), requires_grad=True)
    layer = torch.nn.Linear(features.shape[1], classes)
    layer.weight.data, layer.bias.data = w, bias.clone()
    largest = torch.linalg.eigvalsh(features.double().T @ features.double()).max()
    sums = torch.stack([(features @ t).square().sum() for t in text])
    optimizer = torch.optim.SGD(layer.parameters(), lr=float(4 * count / largest), momentum=0.9)
    kept, kept_epoch, best = [layer.weight, layer.bias, alpha], epochs - 1, -1
    for epoch in range(epochs):
        logits = layer(features) + alpha * (features @ text.T)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if (epoch + 1) % 10 == 0:
            assert alpha.grad is not None
            alpha.data -= count / (4 * sums.max()) * alpha.grad
        if val is not None:
            answers = layer(val[0]) + alpha * (val[0] @ text.T)
            correct = int((answers.argmax(dim=-1) == val[1]).sum())
            if correct >= best:
                best, kept_epoch = correct, epoch
                kept = [part.detach().clone() for part in (layer.weight, layer.bias, alpha)]
    return [part.detach() for part in kept], kept_epoch
