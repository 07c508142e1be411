"""CoOp's mathematics: full prompts of 77 tokens, built one class at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.encoders import embedded_text_features


def prompt_embeddings(
    module: Any, tokenizer: Any, classnames: Sequence[str], context: Tensor, position: str
) -> tuple[Tensor, Tensor]:
    """Embeddings (classes, 77, width) of `X ... X name.`, context in place of the Xs; their ends.

    context is (M, width), or (classes, M, width) if class-specific; position is the class name's.
    """
    names = [name.replace("_", " ") for name in classnames]
    count = context.shape[-2]
    tokens = tokenizer([" ".join(["X"] * count) + f" {name}." for name in names])
    rows = []
    for index, name in enumerate(names):
        words = module.token_embedding(tokens[index])
        own = context[index] if context.ndim == 3 else context
        length = len(tokenizer.encode(name))
        start, label = words[:1], words[1 + count : 1 + count + length]
        rest, half = words[1 + count + length :], count // 2
        order = {
            "end": [start, own, label, rest],
            "middle": [start, own[:half], label, own[half:], rest],
            "front": [start, label, own, rest],
        }
        rows.append(torch.cat(order[position]))
    return torch.stack(rows), tokens.argmax(dim=-1)


def loss(
    module: Any,
    tokenizer: Any,
    classnames: Sequence[str],
    context: Tensor,
    position: str,
    features: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and logits of unit image features (b, embed)."""
    embedded, end = prompt_embeddings(module, tokenizer, classnames, context, position)
    classes = embedded_text_features(module, embedded, end)
    logits = module.logit_scale.exp() * features @ classes.T
    return F.cross_entropy(logits, labels), logits


def dassl_rates(lr: float, warmup_lr: float, epochs: int) -> list[float]:
    """Learning rate per epoch, from torch's own cosine scheduler under Dassl's warm-up.

    The warm-up wrapper overrides the first epoch's rate; it steps the cosine for the first time at
    the end of the second epoch.
    """
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(epochs))
    rates = [warmup_lr]
    for _ in range(1, epochs):
        rates.append(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    return rates
