"""PromptSRC's loss: IVLP's cross-entropy plus three distances to frozen CLIP."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from fsbench_methods.sixty_templates import SIXTY_TEMPLATES
from torch import Tensor

from fewshot_bench import Task
from tests.reference import deep_prompts, encoders
from tests.reference.encoders import text_rows


def frozen_classes(module: Any, task: Task) -> Tensor:
    """Normalized mean (classes, embed) of the raw class features over the templates."""
    found = []
    for template in SIXTY_TEMPLATES:
        texts = [template.replace("{}", name.replace("_", " ")) for name in task.classnames]
        tokens = task.train.backbone.tokenize(texts)  # type: ignore[attr-defined]
        rows = text_rows(module, module.token_embedding(tokens) + module.positional_embedding)
        end = rows[torch.arange(len(rows)), tokens.argmax(dim=-1)]
        found.append(end @ module.text_projection)
    return F.normalize(torch.stack(found).mean(dim=0), dim=-1)


def loss(
    module: Any,
    learned: Any,
    pixels: Tensor,
    labels: Tensor,
    task: Task,
    weights: tuple[float, float] = (25.0, 10.0),
) -> Tensor:
    """Total loss of a batch; `weights` of the L1 distances of text and of image features."""
    scale = module.logit_scale.exp()
    classes = deep_prompts.classes(module, learned["text"], task)
    images = deep_prompts.images(module, learned["vision"], pixels)
    with torch.no_grad():
        frozen, seen = frozen_classes(module, task), encoders.image_features(module, pixels)
    ours = (scale * images @ classes.T).softmax(dim=1)
    theirs = (scale * seen @ frozen.T).softmax(dim=1)
    return (
        -ours[torch.arange(len(labels)), labels].log().mean()
        + weights[0] * (classes - frozen).abs().mean()
        + weights[1] * (images - seen).abs().mean()
        + (theirs * (theirs.log() - ours.log())).mean()
    )
