"""APE's choices: which channels are kept, and the constants that fit validation best."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.training.provisional import to_float64
from fsbench_methods.cache_model import Cache, largest_block

# Fewer columns make products of many classes slow.
MIN_BLOCK = 32


def choose_channels(texts: Tensor, cache: Cache, share: float, similarity: float) -> Tensor:
    """(q,) sorted channels of the largest scores: share * d of them, but at least one.

    A channel's score is -similarity * s + (1 - similarity) * v (APE, eq. 3-8): s is the mean
    product of rows of different classes, class texts (classes, d) and keys alike, v the unbiased
    variance of the class texts. The sum of products over pairs of different classes is the square
    of the sum of all rows less the squares of the sums of each class.
    """
    own = torch.arange(len(texts), device=texts.device)
    rows, labels = to_float64(torch.cat([texts, cache.keys])), torch.cat([own, cache.labels])
    members = F.one_hot(labels.to(rows.device), len(texts)).to(rows.dtype)
    sums, counts = members.T @ rows, members.sum(dim=0)
    pairs = counts.sum().square() - counts.square().sum()
    product = (sums.sum(dim=0).square() - sums.square().sum(dim=0)) / pairs.clamp(min=1)
    variance = to_float64(texts).var(dim=0, correction=min(1, len(texts) - 1))
    scores = (1 - similarity) * variance - similarity * product
    best = scores.sort(descending=True, stable=True).indices
    return best[: max(1, round(share * len(scores)))].sort().values.to(texts.device)


class Constants(NamedTuple):
    """The chosen constants, and their number of correctly classified validation images.

    weighting: index of the chosen column of weights.
    """

    beta: float
    alpha: float
    weighting: int
    correct: int


@torch.no_grad()
def search(
    cache: Cache,
    weights: Tensor,
    features: Tensor,
    labels: Tensor,
    zero_shot: Tensor,
    betas: list[float],
    alphas: list[float],
) -> Constants:
    """The first best constants, as three plain loops find them: beta outside, weightings inside.

    weights (m, g): g weightings of the cached images. features (n, q) and labels (n,): validation
    images; zero_shot (n, classes): their logits without the cache. alphas: above zero.

    Affinities are computed once, activations once per beta, cached logits once per weighting. An
    image is right for the alphas of one interval: where a class gains less from the cache than the
    true one, alpha has a lower bound, else an upper one. So alphas take no pass over the classes. A
    tie for the largest logit counts as correct.
    """
    (classes, width), groups = zero_shot.shape[1:] + features.shape[1:], weights.shape[1]
    place, most = _places(cache)
    keys = features.new_zeros(classes * most, width).index_copy_(0, place, cache.keys)
    by_class = weights.new_zeros(classes * most, groups).index_copy_(0, place, weights)
    by_class = by_class.view(classes, most, groups).mT.contiguous()
    steps = torch.tensor(alphas, device=features.device, dtype=features.dtype)[:, None, None]
    counts = torch.zeros(len(betas), len(alphas), groups, dtype=torch.int64, device=labels.device)
    tiny = torch.finfo(features.dtype).tiny
    size = max(MIN_BLOCK, largest_block(features, classes * groups))
    parts = (torch.split(whole, size) for whole in (features, labels, zero_shot))
    for block, targets, base in zip(*parts, strict=True):
        affinity, activation = keys @ block.T, keys.new_empty(len(keys), len(block))
        lead = (base - base.gather(1, targets[:, None])).T
        room = torch.where(lead > 0, torch.inf, -lead.clamp(max=-1e-30))
        room.scatter_(0, targets[None], torch.inf)
        own = targets.expand(1, groups, -1)
        for row, sharpness in enumerate(betas):
            torch.mul(affinity, sharpness, out=activation).sub_(sharpness).exp_()
            cached = by_class @ activation.view(classes, most, -1)
            gain = cached.gather(0, own).sub(cached)
            least = (lead[:, None] / gain.clamp(min=tiny)).amax(dim=0)
            largest = (room[:, None] / gain.neg_().clamp_(min=tiny)).amin(dim=0)
            counts[row] += ((least <= steps) & (steps <= largest)).sum(dim=-1)
    flat = counts.flatten().cpu().numpy()
    best, weighting = divmod(int(np.argmax(flat)), groups)
    beta, alpha = betas[best // len(alphas)], alphas[best % len(alphas)]
    return Constants(beta, alpha, weighting, int(flat.max()))


def _places(cache: Cache) -> tuple[Tensor, int]:
    """(m,) the row of each key when every class has as many rows as the largest; their number."""
    counts = torch.bincount(cache.labels, minlength=cache.classes)
    first = counts.cumsum(0) - counts
    every = torch.arange(len(cache.labels), device=cache.labels.device)
    most = int(counts.max())
    return cache.labels * most + every - first[cache.labels], most
