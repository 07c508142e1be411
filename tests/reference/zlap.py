"""ZLaP in plain matrices: a dense graph in double precision, and one solution of a system."""

from __future__ import annotations

import torch
from torch import Tensor


def graph(
    features: Tensor, text: Tensor, neighbors: int, gamma: float, *, displaced: bool = False
) -> Tensor:
    """(classes + n, classes + n): A + A'.

    displaced: as in the official code, which searches the nearest images with the image itself
    among them and removes it afterwards; others that are equal to it can take its place.
    """
    classes, count = len(text), len(features)
    a = torch.zeros(classes + count, classes + count, dtype=torch.float64)
    for i in range(count):
        cosines = (features @ features[i]).clone()
        if displaced:
            found = cosines.argsort(descending=True)[:neighbors]
        else:
            cosines[i] = -torch.inf
            found = cosines.argsort(descending=True)[: min(neighbors, count) - 1]
        for j in found.tolist():
            a[classes + i, classes + j] = max(0.0, float(features[i] @ features[j]))
        likely = text @ features[i]
        for k in likely.argsort(descending=True)[:neighbors].tolist():
            a[classes + i, k] = max(0.0, float(likely[k])) ** gamma
    both = a + a.T
    return both - both.diag().diag()


def scores(
    features: Tensor,
    text: Tensor,
    neighbors: int = 5,
    gamma: float = 5.0,
    alpha: float = 0.3,
    *,
    displaced: bool = False,
) -> Tensor:
    """(n, classes): the columns of (I - alpha Wn)^-1 e_c at the images, solved exactly.

    `dfs_search` takes at most 50 steps of conjugate gradients from 0, and stops at a residual of
    1e-6. `create_separate_graph` takes min(k, n) images, the image itself among them, and min(k,
    classes) texts.
    """
    weights = graph(features.double(), text.double(), neighbors, gamma, displaced=displaced)
    degrees = weights.sum(dim=1)
    degrees[degrees == 0] = 1
    normal = weights / degrees.sqrt()[:, None] / degrees.sqrt()[None, :]
    system = torch.eye(len(weights), dtype=torch.float64) - alpha * normal
    return torch.linalg.solve(system, torch.eye(len(weights), dtype=torch.float64))[
        len(text) :, : len(text)
    ]
