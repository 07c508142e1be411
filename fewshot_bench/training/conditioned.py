"""Prompts that depend on the image: each image has its own context; images are encoded in blocks.

`conditioned_logits` predicts, `conditioned_backward` adds gradients. Results equal those of one
image at a time up to rounding; `TOKENS_AT_ONCE` bounds memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from fewshot_bench.api.method import RunContext
from fewshot_bench.training.prompt_model import Loss, PromptBatch, PromptModel
from fewshot_bench.training.steps import Scale, row_blocks

TOKENS_AT_ONCE = 6 * 2**10
"""Prompt tokens of a block, one image at least. A step keeps about 340 kB of each at ViT-B/16."""
Contexts = Callable[[Tensor], Tensor]
"""Unit image features (b, embed) to contexts (b, M, width)."""


def for_images(model: PromptModel, device: torch.device, ctx: RunContext) -> PromptModel:
    """The model for steps on blocks of images, with recomputed tower blocks if memory needs it."""
    fitting = model.within_memory(device, ctx, _images_at_once(model))
    if not fitting.recompute and model.prompts.packing.tokens > TOKENS_AT_ONCE:
        ctx.note(recomputed=["text"])
        return replace(fitting, recompute=True)
    return fitting


@torch.no_grad()
def conditioned_logits(model: PromptModel, contexts: Contexts, images: Tensor) -> Tensor:
    """(n, classes) logits of unit image features (n, embed)."""
    logits = [images.new_empty(0, len(model.prompts.end))]
    for block in row_blocks(images, _images_at_once(model)) if images.numel() else ():
        classes = model.class_features(contexts(block))
        logits.append(PromptBatch(classes, block, block, model.scale).logits)
    return torch.cat(logits)


def conditioned_backward(
    model: PromptModel, contexts: Contexts, images: Tensor, labels: Tensor, scale: Scale
) -> None:
    """Add gradients of the batch's mean cross-entropy to all tensors that `contexts` depends on."""

    def share(batch: PromptBatch) -> Tensor:
        return batch.cross_entropy() * (len(batch.images) / len(images))

    losses: list[Loss] = [share]
    for block in _blocks(model, images):
        context = contexts(images[block])
        leaf = context.detach().requires_grad_()
        (gradient,) = model.gradients(leaf, losses, images[block], labels[block], scale)
        torch.autograd.backward(context, gradient)


def _images_at_once(model: PromptModel) -> int:
    """Images per block; 1 if prompts are encoded in parts or one image's prompts fill a block."""
    return 1 if model.parts else max(1, TOKENS_AT_ONCE // model.prompts.packing.tokens)


def _blocks(model: PromptModel, images: Tensor) -> Iterator[slice]:
    size = _images_at_once(model)
    return (slice(start, start + size) for start in range(0, len(images), size))
