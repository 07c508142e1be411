"""KgCoOp's mathematics: CoOp's loss, and the mean cosine distance to the hand-written prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.coop import prompt_embeddings
from tests.reference.encoders import embedded_text_features, text_features


def loss(
    module: Any,
    tokenizer: Any,
    classnames: Sequence[str],
    template: str,
    context: Tensor,
    features: Tensor,
    labels: Tensor,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """Loss, and logits (b, classes) of unit image features (b, embed)."""
    learned = embedded_text_features(
        module, *prompt_embeddings(module, tokenizer, classnames, context, "end")
    )
    hand = [template.replace("{}", name.replace("_", " ")) for name in classnames]
    with torch.no_grad():
        frozen = text_features(module, tokenizer(hand))
    distance = 1 - torch.stack([a @ b for a, b in zip(learned, frozen, strict=True)]).mean()
    logits = module.logit_scale.exp() * features @ learned.T
    return F.cross_entropy(logits, labels) + weight * distance, logits
