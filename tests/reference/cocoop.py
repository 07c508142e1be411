"""CoCoOp's mathematics: one image at a time, full prompts of 77 tokens for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.coop import prompt_embeddings
from tests.reference.encoders import embedded_text_features


def logits(
    module: Any,
    tokenizer: Any,
    classnames: Sequence[str],
    learned: Mapping[str, Tensor],
    features: Tensor,
) -> Tensor:
    """Logits (b, classes) of unit image features (b, embed); `learned` is keyed as `tensors()`."""
    rows = []
    for image in features:
        hidden = (learned["linear1.weight"] @ image + learned["linear1.bias"]).clamp_min(0)
        shift = learned["linear2.weight"] @ hidden + learned["linear2.bias"]
        context = torch.stack([token + shift for token in learned["context"]])
        embedded = prompt_embeddings(module, tokenizer, classnames, context, "end")
        classes = embedded_text_features(module, *embedded)
        rows.append(module.logit_scale.exp() * classes @ image)
    return torch.stack(rows)


def loss(*case: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy, and logits; `case` holds the arguments of `logits`."""
    scores = logits(*case)
    return F.cross_entropy(scores, labels), scores
