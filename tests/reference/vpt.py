"""VPT's mathematics: prompt rows at the end of every image's sequence, over the full encoder."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Task, Vocabulary
from tests.reference.encoders import image_rows, text_features


def zero_shot_classes(module: Any, tokenize: Any, task: Vocabulary) -> Tensor:
    """Class features (classes, embed): normalized mean of the templates' unit features."""
    per_template = [text_features(module, tokenize(task.prompts(one))) for one in task.templates]
    return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)


def logits(module: Any, prompts: Tensor, pixels: Tensor, classes: Tensor) -> Tensor:
    """Logits (b, classes); prompts (layers, n, width) are replaced layer by layer."""
    count = prompts.shape[1]

    def before(layer: int, x: Tensor) -> Tensor:
        if layer >= len(prompts):
            return x
        kept = x if layer == 0 else x[:, :-count]
        return torch.cat([kept, prompts[layer].expand(len(x), -1, -1)], dim=1)

    rows = image_rows(module, pixels, before)
    images = F.normalize(rows[:, 0] @ module.visual.proj, dim=-1)
    return module.logit_scale.exp() * images @ classes.T  # type: ignore[no-any-return]


def loss(module: Any, learned: Any, pixels: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Cross-entropy of a batch against zero-shot class features, by the support set's tokenizer."""
    classes = zero_shot_classes(module, task.train.backbone.tokenize, task)  # type: ignore[attr-defined]
    return F.cross_entropy(logits(module, learned["prompts"], pixels, classes), labels)


def answers(module: Any, learned: Any, pixels: Tensor, task: Task) -> Tensor:
    """Logits (n, classes) with the learned prompts."""
    classes = zero_shot_classes(module, task.train.backbone.tokenize, task)  # type: ignore[attr-defined]
    return logits(module, learned["prompts"], pixels, classes)
