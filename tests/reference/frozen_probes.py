"""Linear and kernel classifiers on frozen features, started at or added to the zero-shot one.

Written out from their papers; features are unit rows, `s` is the logit scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.coop import dassl_rates
from tests.reference.frozen import Batches, train


def cosine_logits(features: Tensor, vectors: Tensor, s: float) -> Tensor:
    """s cos(f, w_k), class by class."""
    return s * torch.stack([F.cosine_similarity(features, w[None]) for w in vectors], dim=1)


def clap_multipliers(pool: Tensor, labels: Tensor, raw_text: Tensor, s: float) -> Tensor:
    """Mean zero-shot probability of the true class, for each class (classes,)."""
    probabilities = cosine_logits(pool, raw_text, s).softmax(dim=-1)
    return torch.stack([probabilities[labels == k, k].mean() for k in range(len(raw_text))])


def clap_loss(
    w: Tensor, features: Tensor, labels: Tensor, raw_text: Tensor, multipliers: Tensor, s: float
) -> Tensor:
    """CLAP: cross-entropy plus mean_k a_k |w_k - t_k|^2; ZS-LP's loss if all a_k are zero."""
    distances = [(w_k - t_k).square().sum() for w_k, t_k in zip(w, raw_text, strict=True)]
    pull = sum(a * distance for a, distance in zip(multipliers, distances, strict=True))
    return F.cross_entropy(cosine_logits(features, w, s), labels) + pull / len(w)


def probe_fit(epochs: Sequence[Batches], raw_text: Tensor, multipliers: Tensor, s: float) -> Tensor:
    """Class vectors after SGD with momentum, lr 0.1 at Dassl's rates."""
    w = raw_text.clone().requires_grad_()
    train(
        lambda f, y: clap_loss(w, f, y, raw_text, multipliers, s),
        torch.optim.SGD([w], lr=0.1, momentum=0.9),
        epochs,
        dassl_rates(0.1, 1e-5, len(epochs)),
    )
    return w.detach()


def kernel(x: Tensor, y: Tensor, beta: float) -> Tensor:
    """exp(-beta |x - y|^2 / 2), equal to exp(-beta (1 - x y)) for unit rows, in float64."""
    return torch.exp(-beta / 2 * torch.cdist(x.double(), y.double()).square())


def proker_logits(
    features: Tensor,
    points: Tensor,
    labels: Tensor,
    text: Tensor,
    beta: float,
    penalty: float,
) -> Tensor:
    """ProKeR: f t + K(f, S) A with (K(S, S) / l + I) A = onehot - S t, in float64."""
    onehot = torch.eye(len(text)).double()[labels]
    system = kernel(points, points, beta) / penalty + torch.eye(len(points)).double()
    coefficients = torch.linalg.inv(system) @ (onehot - (points @ text.T).double())
    return (features @ text.T).double() + kernel(features, points, beta) @ coefficients


def proker_constants(
    val: tuple[Tensor, Tensor], points: Tensor, labels: Tensor, text: Tensor
) -> tuple[float, float]:
    """First (beta, penalty) of the grid with the most correct validation images."""
    best, chosen = -1, (0.0, 0.0)
    for beta in torch.linspace(0.5, 3, 20).tolist():
        for penalty in torch.linspace(0.001, 1, 10).tolist():
            answers = proker_logits(val[0], points, labels, text, beta, penalty).argmax(dim=-1)
            correct = int((answers == val[1]).sum())
            if correct > best:
                best, chosen = correct, (beta, penalty)
    return chosen


def endless(features: Tensor, labels: Tensor, size: int, rng: torch.Generator) -> Iterator[Batches]:
    """Endless minibatches from shuffled passes, without a short last batch."""
    while True:
        for index in torch.randperm(len(labels), generator=rng).split(size):
            if len(index) == size:
                yield [(features[index], labels[index])]


def head_rates(lr: float, iterations: int) -> list[float]:
    """Learning rate per step: 50 warm-up steps, the first at 1e-5, then torch's cosine."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(iterations))
    rates = [1e-5] + [lr * step / 50 for step in range(1, 50)]
    for _ in range(50, iterations):
        rates.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    return rates[:iterations]


def best_head(
    sets: Sequence[tuple[Tensor, Tensor]],
    start: Tensor,
    sizes: Sequence[int],
    val: tuple[Tensor, Tensor] | None,
    s: float,
    iterations: int,
    rng: Callable[[], torch.Generator],
) -> Tensor:
    """First best head on validation among steps 0, 100, 200, ... of all settings.

    Every batch holds equal parts of all `sets`. Without validation, the head after the last step at
    lr 1e-3, weight decay 0.01 and the first size.
    """
    best, kept = -1, start
    settings = list(itertools.product([1e-3, 1e-4], [0.0, 0.01, 1e-4], sizes))
    for lr, decay, size in settings if val else [(1e-3, 0.01, sizes[0])]:
        head, order = start.clone().requires_grad_(), rng()
        optimizer = torch.optim.AdamW([head], lr=lr, weight_decay=decay)
        streams = [endless(f, y, size // len(sets), order) for f, y in sets]
        for step, rate in enumerate(head_rates(lr, iterations)):
            (pairs,) = zip(*(next(stream) for stream in streams), strict=True)
            features, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = F.cross_entropy(s * features @ head.T, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if val is not None and step % 100 == 0:
                correct = int(((val[0] @ head.T).argmax(dim=-1) == val[1]).sum())
                if correct > best:
                    best, kept = correct, head.detach().clone()
        if val is None:
            kept = head.detach()
    return kept
