"""Prefix tuning of both encoders (Li and Liang, 2021) over the full encoders, key by key."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Task
from fewshot_bench.backbones import Prefix
from tests.reference.encoders import Attend, image_rows, text_rows
from tests.reference.inside import attention_behind


def behind(learned: Any, encoder: str) -> Attend:
    """Attention of an encoder whose blocks all have learned keys and values."""
    pairs = zip(learned[f"{encoder}.keys"], learned[f"{encoder}.values"], strict=True)
    return attention_behind([Prefix(layer, *pair) for layer, pair in enumerate(pairs)])


def answers(module: Any, learned: Any, pixels: Tensor, task: Task) -> Tensor:
    """Logits (n, classes) of pixels, classes encoded anew with each template."""
    rows = image_rows(module, pixels, attend=behind(learned, "vision"))
    images = F.normalize(rows[:, 0] @ module.visual.proj, dim=-1)
    every = []
    for template in task.templates:
        ids = task.train.backbone.tokenize(task.prompts(template))  # type: ignore[attr-defined]
        embedded = module.token_embedding(ids) + module.positional_embedding
        texts = text_rows(module, embedded, attend=behind(learned, "text"))
        ends = texts[torch.arange(len(ids)), ids.argmax(dim=-1)]
        every.append(F.normalize(ends @ module.text_projection, dim=-1))
    classes = F.normalize(torch.stack(every).mean(dim=0), dim=-1)
    return module.logit_scale.exp() * images @ classes.T  # type: ignore[no-any-return]


def loss(module: Any, learned: Any, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of a batch."""
    return F.cross_entropy(answers(module, learned, pixels, task), labels)
