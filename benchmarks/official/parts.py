"""Steps with very many classes in parts, for machines with little memory: the same work.

The text side runs in parts of `PART` classes, each forward and backward, with random stand-ins for
the class features in the loss: for timing only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 125


def backward_in_parts(
    images: Tensor, labels: Tensor, classes: int, parts: Iterator[Tensor]
) -> None:
    """Do the work of a step: images at once, class features in parts."""
    rng = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(classes, images.shape[1], generator=rng), dim=-1)
    features = features.to(images.device).requires_grad_()
    F.cross_entropy(100.0 * images @ features.T, labels).backward()  # type: ignore[no-untyped-call]
    assert features.grad is not None
    start = 0
    for part in parts:
        part.backward(features.grad[start : start + len(part)])  # type: ignore[no-untyped-call]
        start += len(part)
