"""Batches and views of the support set, epoch by epoch.

`minibatches` shuffles indices; `epoch_views` and `views_in_turn` yield features of augmented views.
All draws come from the generator that is given, so that a seed fixes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fewshot_bench.api.task import Augment, Images

VIEW_BYTES = 2**28
"""Bytes of augmented features that are asked for at once."""


def minibatches(
    count: int, size: int, rng: torch.Generator, device: torch.device, *, drop_last: bool
) -> list[Tensor]:
    """Shuffled indices of one epoch; a short last batch is dropped only if a full one exists."""
    order = torch.randperm(count, generator=rng).to(device)
    batches = list(torch.split(order, size))
    if drop_last and count >= size and len(batches[-1]) < size:
        batches.pop()
    return batches


def steps_per_epoch(count: int, size: int, *, drop_last: bool) -> int:
    """The number of batches that `minibatches` yields."""
    return count // size if drop_last and count >= size else math.ceil(count / size)


def epoch_views(
    images: Images,
    epochs: int,
    augment: Augment,
    width: int,
    *,
    start: int = 0,
    normalize: bool = True,
) -> Iterator[Tensor]:
    """One (n, width) tensor of unit features per epoch: every image's own next view, from `start`.

    Raw features with `normalize=False`.
    They are asked for in chunks of at most `VIEW_BYTES`, so that long schedules on large support
    sets fit in memory; the chunks depend on the sizes alone.
    """
    chunk = max(1, VIEW_BYTES // (4 * width * len(images)))
    for first in range(0, epochs, chunk):
        count = min(chunk, epochs - first)
        yield from images.views(count, augment, normalize=normalize, start=start + first)


def views_in_turn(
    images: Images, epochs: int, augment: Augment, rng: torch.Generator, count: int
) -> Iterator[Tensor]:
    """One (n, width) tensor of unit features per epoch, from `count` views of every image.

    An image takes its views in turn, in an order of its own that is drawn anew for every round.
    """
    views = images.views(count, augment, normalize=True)
    every = torch.arange(len(images), device=views.device)
    for start in range(0, epochs, count):
        turns = torch.rand(len(images), count, generator=rng).argsort(dim=1).to(views.device)
        for turn in turns.T[: epochs - start]:
            yield views[turn, every]
