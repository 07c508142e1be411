"""TDA on a stream of features (n, d): lists by class, as the paper describes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Item = tuple[float, Tensor, Tensor]


def remember(cache: dict[int, list[Item]], at: int, item: Item, most: int) -> None:
    """Keep the `most` items of lowest entropy of a class; of equal ones the first.

    `update_cache` replaces the last item of a full class only by one of lower entropy.
    """
    cache[at] = sorted([*cache.get(at, []), item], key=lambda one: one[0])[:most]


def logits(
    stream: Tensor,
    text: Tensor,
    scale: float,
    *,
    alpha: float = 2.0,
    beta: float = 5.0,
    in_nats: bool = True,
) -> Tensor:
    """(n, classes). in_nats: entropy in nats over log2 C, as in the official code; else in bits.

    `run_test_tda` puts a query into the caches before it answers for it; both thresholds of the
    entropy, and of a probability, are exclusive.
    """
    positive: dict[int, list[Item]] = {}
    negative: dict[int, list[Item]] = {}
    classes, rows = len(text), []
    for query in stream:
        scores = scale * query @ text.T
        p = scores.softmax(0)
        entropy, at = float(-(p * p.log()).sum()), int(scores.argmax())
        remember(positive, at, (entropy, query, p), 3)
        share = entropy / math.log2(classes) if classes > 1 else 0.0
        if 0.2 < (share if in_nats else share / math.log(2)) < 0.5:
            remember(negative, at, (entropy, query, p), 2)
        for label, items in positive.items():
            for _, key, _ in items:
                scores[label] += alpha * math.exp(-beta * (1 - float(query @ key)))
        for items in negative.values():
            for _, key, seen in items:
                marked = ((seen > 0.03) & (seen < 1)).float()
                scores -= 0.117 * math.exp(-(1 - float(query @ key))) * marked
        rows.append(scores)
    return torch.stack(rows)
