"""IVLP's and MaPLe's mathematics: prompt rows in both encoders, all 77 tokens of every prompt."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Task
from tests.reference.encoders import image_rows, text_rows

WORDS = "a photo of a"


def images(module: Any, rows: Tensor, pixels: Tensor) -> Tensor:
    """Unit features (b, embed); rows (layers, n, width) at the end are replaced layer by layer."""
    count = rows.shape[1]

    def before(layer: int, x: Tensor) -> Tensor:
        if layer >= len(rows):
            return x
        kept = x if layer == 0 else x[:, :-count]
        return torch.cat([kept, rows[layer].expand(len(x), -1, -1)], dim=1)

    pooled = image_rows(module, pixels, before)[:, 0]
    return F.normalize(pooled @ module.visual.proj, dim=-1)


def classes(module: Any, rows: Tensor, task: Task) -> Tensor:
    """Unit features (classes, embed); rows (layers, n, width) follow the start token."""
    count = rows.shape[1]
    names = [name.replace("_", " ") for name in task.classnames]
    tokens = task.train.backbone.tokenize([f"{WORDS} {name}." for name in names])  # type: ignore[attr-defined]

    def with_rows(x: Tensor, values: Tensor) -> Tensor:
        own = values.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], own, x[:, 1 + count :]], dim=1)

    def before(layer: int, x: Tensor) -> Tensor:
        return with_rows(x, rows[layer]) if 0 < layer < len(rows) else x

    embedded = with_rows(module.token_embedding(tokens), rows[0])
    found = text_rows(module, embedded + module.positional_embedding, before)
    end = found[torch.arange(len(found)), tokens.argmax(dim=-1)]
    return F.normalize(end @ module.text_projection, dim=-1)


def ivlp_answers(module: Any, learned: Any, pixels: Tensor, task: Task) -> Tensor:
    """(n, classes) logits."""
    found = images(module, learned["vision"], pixels)
    return module.logit_scale.exp() * found @ classes(module, learned["text"], task).T  # type: ignore[no-any-return]


def ivlp_loss(module: Any, learned: Any, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of a batch."""
    return F.cross_entropy(ivlp_answers(module, learned, pixels, task), labels)


def maple_answers(module: Any, learned: Any, pixels: Tensor, task: Task) -> Tensor:
    """(n, classes) logits; in each layer, a linear map of the text rows gives the image rows."""
    layers = zip(learned["rows"], learned["weight"], learned["bias"], strict=True)
    vision = torch.stack([F.linear(rows, weight, bias) for rows, weight, bias in layers])
    found = images(module, vision, pixels)
    return module.logit_scale.exp() * found @ classes(module, learned["rows"], task).T  # type: ignore[no-any-return]


def maple_loss(module: Any, learned: Any, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of a batch."""
    return F.cross_entropy(maple_answers(module, learned, pixels, task), labels)
