"""ProGrad's mathematics: two losses, two graphs, and the gradient that is stepped on."""

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
    """Cross-entropy, its soft form to zero-shot CLIP, and logits (b, classes)."""
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
    """The gradient g, without `strength` of its part against k where their angle is obtuse."""
    direction = k / k.norm()
    if F.cosine_similarity(g.flatten(), k.flatten(), dim=0) < 0:
        return g - strength * (g.flatten() @ direction.flatten()) * direction
    return g


def gradient(strength: float, *case: Any) -> tuple[Tensor, Tensor, bool]:
    """The gradient of a step, logits, and whether the two losses disagree; `case` as `losses`."""
    context = case[4]
    hard, _, logits = losses(*case)
    (g,) = torch.autograd.grad(hard, context)
    (k,) = torch.autograd.grad(losses(*case)[1], context)
    found = projected(g, k, strength)
    return found, logits, not torch.equal(found, g)
