"""PLOT++'s mathematics: one transport problem and one set of prompt rows at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Task
from tests.reference.coop import prompt_embeddings
from tests.reference.encoders import image_rows, text_rows

EPS, ROUNDS, TOLERANCE = 0.1, 100, 1e-2


def plan(cosines: Tensor) -> Tensor:
    """Transport plan (m, n) by Sinkhorn iterations until the row factors hardly change."""
    m, n = cosines.shape
    kernel = torch.exp((cosines - 1) / EPS)
    rows, columns = torch.ones(m), torch.ones(n)
    for _ in range(ROUNDS):
        last = rows
        rows = torch.full((m,), 1 / m) / (kernel @ columns)
        columns = torch.full((n,), 1 / n) / (kernel.T @ rows)
        if (rows - last).abs().mean() < TOLERANCE:
            break
    return torch.diag(rows) @ kernel @ torch.diag(columns)


def raw_features(
    module: Any, learned: Any, pixels: Tensor, task: Task
) -> tuple[list[Tensor], list[Tensor]]:
    """Raw features: images (b, embed) per set of rows, and classes (classes, embed) per context."""
    tokenizer = task.train.backbone.tokenizer  # type: ignore[attr-defined]
    images, classes = [], []
    for rows in learned["vision"]:

        def before(layer: int, x: Tensor, rows: Tensor = rows) -> Tensor:
            return x if layer else torch.cat([x, rows.expand(len(x), -1, -1)], dim=1)

        images.append(image_rows(module, pixels, before)[:, 0] @ module.visual.proj)
    for context in learned["text"]:
        embedded, end = prompt_embeddings(module, tokenizer, task.classnames, context, "end")
        found = text_rows(module, embedded + module.positional_embedding)
        classes.append(found[torch.arange(len(found)), end] @ module.text_projection)
    return images, classes


def answers(
    module: Any, learned: Any, pixels: Tensor, task: Task, *, pooled: bool = False
) -> Tensor:
    """(n, classes) logits; `pooled` adds the cosines of mean features, as in the first stage."""
    images, classes = raw_features(module, learned, pixels, task)
    units = [
        torch.stack([F.normalize(one, dim=-1) for one in found]) for found in (images, classes)
    ]
    logits = torch.zeros(len(pixels), len(task.classnames))
    for image in range(len(pixels)):
        for label in range(len(task.classnames)):
            cosines = units[0][:, image] @ units[1][:, label].T
            logits[image, label] = (plan(cosines.detach()) * cosines).sum()
    if pooled:
        means = [F.normalize(torch.stack(found).mean(dim=0), dim=-1) for found in (images, classes)]
        logits = logits + means[0] @ means[1].T
    return module.logit_scale.exp() * logits  # type: ignore[no-any-return]


def loss(
    module: Any, learned: Any, pixels: Tensor, labels: Tensor, task: Task, *, pooled: bool = False
) -> Tensor:
    """Cross-entropy of a batch."""
    return F.cross_entropy(answers(module, learned, pixels, task, pooled=pooled), labels)
