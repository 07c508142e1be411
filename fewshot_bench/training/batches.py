"""Batches and views of the support set, epoch by epoch.

`minibatches` shuffles indices, `pixel_batches` yields augmented images, `crop_features` their
frozen features, `epoch_views` and `views_in_turn` yield features of augmented views;
`train_epochs` trains on them, one step per batch. All draws come from the given generator or
context and are thus determined by the seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from fewshot_bench.api.method import RunContext
from fewshot_bench.api.task import Augment, Images, Shots
from fewshot_bench.training.steps import Scale
from fewshot_bench.utils.transfer import send

FeatureLoss = Callable[[Tensor, Tensor], Tensor]
"""Features (b, width) and labels (b,) of one minibatch to a scalar."""
Step = Callable[[Tensor, Tensor, Scale], None]
"""Adds the gradients of a minibatch: features (b, width), labels (b,), scale of losses."""


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

    >>> train_epochs(step, sgd, views, labels, ctx, epochs=20, batch_size=32, rate=rate)
    """
    order, count, take = ctx.rng("order"), len(labels), ctx.train_step_by(step, optimizer)
    steps = steps or steps_per_epoch(count, batch_size, drop_last=True)
    done = 0
    for epoch, features in enumerate(views):
        batches = minibatches(count, batch_size, order, labels.device, drop_last=True)
        for index in batches[:steps]:
            take(features[index], labels[index], rate=rate(epoch))
            done += 1
            ctx.progress(done, epochs * steps)


VIEW_BYTES = 2**26
"""Bytes of augmented features that are asked for at once; one epoch where that takes more."""


def minibatches(
    count: int, size: int, rng: torch.Generator, device: torch.device, *, drop_last: bool
) -> list[Tensor]:
    """Shuffled indices of one epoch; a short last batch is dropped only if a full one exists.

    >>> for index in minibatches(100, 32, rng, ctx.device, drop_last=False): ...
    """
    order = send(torch.randperm(count, generator=rng), device)
    batches = list(torch.split(order, size))
    if drop_last and count >= size and len(batches[-1]) < size:
        batches.pop()
    return batches


def steps_per_epoch(count: int, size: int, *, drop_last: bool) -> int:
    """The number of batches that `minibatches` yields.

    >>> steps_per_epoch(100, 32, drop_last=False)
    4
    """
    return count // size if drop_last and count >= size else math.ceil(count / size)


def pixel_batches(
    train: Shots,
    size: int,
    device: torch.device,
    ctx: RunContext,
    *,
    augment: Augment,
    drop_last: bool,
    epochs: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs of shuffled, augmented pixels (b, 3, h, w) with labels (b,); endless by default.

    Draws come from the streams `order` and `augment`; short last batches as in `minibatches`.
    """
    order, rng, count = ctx.rng("order"), ctx.rng("augment"), len(train)
    kept = count
    if drop_last:
        kept = min(count, size) * steps_per_epoch(count, size, drop_last=True)
    orders = (
        torch.randperm(count, generator=order)[:kept]
        for _ in (itertools.count() if epochs is None else range(epochs))
    )
    return train.batches(size, order=orders, augment=augment, rng=rng, device=device, labels=True)


def view_batches(
    train: Shots,
    size: int,
    width: int,
    ctx: RunContext,
    *,
    augment: Augment,
    drop_last: bool,
    epochs: int,
    as_pixels: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Epochs of shuffled unit features (b, width) of augmented views with labels (b,).

    Counterpart of `pixel_batches` for a frozen image encoder; with `as_pixels`, views are the very
    crops of its batches. They are encoded ahead, in large batches, and shared by fits.
    """
    order, labels, count = ctx.rng("order"), train.labels, len(train)
    rng = ctx.rng("augment") if as_pixels else None
    for views in epoch_views(train, epochs, augment, width, rng=rng):
        for index in minibatches(count, size, order, labels.device, drop_last=drop_last):
            yield views[index], labels[index]


def epoch_views(
    images: Images,
    epochs: int,
    augment: Augment,
    width: int,
    *,
    start: int = 0,
    normalize: bool = True,
    projected: bool = True,
    rng: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """One (n, width) tensor of unit features per epoch: every image's own next view, from `start`.

    With `rng`, views are the crops that `Images.batches` draws from it, one pass per epoch. Raw
    features with `normalize=False`; rows before the projection with `projected=False`. Views are
    requested in chunks of at most `VIEW_BYTES`, but at least one epoch, so that long schedules on
    large support sets fit in memory; chunks depend only on sizes.

    >>> for views in epoch_views(task.train, 20, Augment(), backbone.embed_dim): ...
    """
    chunk = max(1, VIEW_BYTES // (4 * width * len(images)))
    for first in range(0, epochs, chunk):
        count = min(chunk, epochs - first)
        yield from images.views(
            count, augment, rng, normalize=normalize, projected=projected, start=start + first
        )


def views_in_turn(
    images: Images,
    epochs: int,
    augment: Augment,
    rng: torch.Generator,
    count: int,
    width: int = 1024,
) -> Iterator[Tensor]:
    """One (n, width) tensor of unit features per epoch, from `count` views of every image.

    Each image uses its views in turn, in its own random order that is redrawn for every round of
    `count` epochs. If all views exceed `VIEW_BYTES`, as many epochs as fit are built at a time.
    """
    chunk = min(count, max(1, VIEW_BYTES // (4 * width * len(images))))
    views = images.views(count, augment, normalize=True) if chunk == count else None
    for start in range(0, epochs, count):
        turns = torch.rand(len(images), count, generator=rng).argsort(dim=1)
        asked = turns.T[: epochs - start]
        if views is None:
            for first in range(0, len(asked), chunk):
                some = asked[first : first + chunk]
                yield from _take(images, some, augment, count, chunk)
            continue
        every = torch.arange(len(images), device=views.device)
        for turn in send(asked.contiguous(), views.device):
            yield views[turn, every]


def _take(images: Images, turns: Tensor, augment: Augment, count: int, chunk: int) -> Tensor:
    """(t, n, width): view `turns[e, i]` of image i at [e, i], collected from chunks of views."""
    taken = torch.empty(0)
    for start in range(0, count, chunk):
        views = images.views(min(chunk, count - start), augment, normalize=True, start=start)
        if not start:
            taken = views.new_empty(*turns.shape, views.shape[2])
        turns = turns.to(views.device)
        epochs, places = ((turns >= start) & (turns < start + len(views))).nonzero(as_tuple=True)
        taken[epochs, places] = views[turns[epochs, places] - start, places]
    return taken
