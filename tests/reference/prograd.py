"""ProGrad's mathematics: two losses, two graphs, and the projected gradient of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.coop import prompt_embeddings
from tests.reference.encoders import embedded_text_features, text_features


def losses(
    module: Any,
    tokenizer: Any,
    classnames: Sequence[str],
    template: str,
    context: Tensor,
    features: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, soft cross-entropy against zero-shot CLIP, and logits (b, classes)."""
    learned = embedded_text_features(
        module, *prompt_embeddings(module, tokenizer, classnames, context, "end")
    )
    scale = module.logit_scale.exp()
    logits = scale * features @ learned.T
    hand = [template.replace("{}", name.replace("_", " ")) for name in classnames]
    with torch.no_grad():
        teacher = F.softmax(scale * features @ text_features(module, tokenizer(hand)).T, dim=1)
    soft = -(teacher * logits.log_softmax(dim=1)).sum(dim=1).mean()
    return F.cross_entropy(logits, labels), soft, logits


def projected(g: Tensor, k: Tensor, strength: float) -> Tensor:
    """g, minus `strength` times its component along k if the angle between g and k is obtuse."""
    direction = k / k.norm()
    if F.cosine_similarity(g.flatten(), k.flatten(), dim=0) < 0:
        return g - strength * (g.flatten() @ direction.flatten()) * direction
    return g


def gradient(strength: float, *case: Any) -> tuple[Tensor, Tensor, bool]:
    """Gradient of a step, logits, and True if g was changed; `case` holds `losses`' arguments."""
    context = case[4]
    hard, _, logits = losses(*case)
    (g,) = torch.autograd.grad(hard, context)
    (k,) = torch.autograd.grad(losses(*case)[1], context)
    found = projected(g, k, strength)
    return found, logits, not torch.equal(found, g)
