"""Training on precomputed features, one optimizer step per minibatch.

`train_epochs` is the loop, `step_on` turns a loss into a step; all draws come from
`ctx.rng("order")` and are thus determined by the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from fewshot_bench.api.method import RunContext
from fewshot_bench.training.batches import minibatches, steps_per_epoch
from fewshot_bench.training.steps import Scale, minimize_by, set_rate

FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""Features (b, width) and labels (b,) of one minibatch to a scalar."""
Step = Callable[[Tensor, Tensor, Scale], None]
"""Adds the gradients of a minibatch: features (b, width), labels (b,), scale of losses."""


def step_on(loss: FeatureLoss) -> Step:
    """A step that adds the gradients of `loss`."""

    def step(features: Tensor, labels: Tensor, scale: Scale) -> None:
        torch.autograd.backward(scale(loss(features, labels)))

    return step


def train_epochs(
    step: Step,
    optimizer: torch.optim.Optimizer,
    views: Iterable[Tensor],
    labels: Tensor,
    ctx: RunContext,
    *,
    epochs: int,
    batch_size: int,
    rate: Callable[[int], float],
    steps: int = 0,
) -> None:
    """Run one optimizer step per shuffled minibatch of every epoch, with the gradients of `step`.

    views: `epochs` tensors (n, width). labels: (n,). rate: learning rate of an epoch, counted
    from 0. steps: use only the first `steps` batches of each epoch; 0 for all. A short last batch
    is dropped if a full one exists.
    """
    scaler, order, count = ctx.scaler(), ctx.rng("order"), len(labels)
    steps = steps or steps_per_epoch(count, batch_size, drop_last=True)
    done = 0
    for epoch, features in enumerate(views):
        set_rate(optimizer, rate(epoch))
        batches = minibatches(count, batch_size, order, labels.device, drop_last=True)
        for index in batches[:steps]:
            minimize_by(partial(step, features[index], labels[index]), optimizer, scaler)
            done += 1
            ctx.progress(done, epochs * steps)
