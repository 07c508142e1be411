"""What the training methods share: batches, views epoch by epoch, schedules, one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, Images, ImageTower, TextTower, free_memory

Autocast = Callable[[], AbstractContextManager[Any]]
"""`RunContext.autocast`: the context in which encoders run."""
Scale = Callable[[Tensor], Tensor]
"""Makes of a loss what is differentiated, under a gradient scaler."""
VIEW_BYTES = 2**28
"""How many bytes of augmented features are asked for at once."""
KEPT_PER_TOKEN = 14
"""About how many values times its width a block keeps of a token for the backward pass."""
MEMORY_SHARE = 0.4
"""How much of the free memory one encoder's activations may take."""


def unit(features: Tensor) -> Tensor:
    """(..., width) at unit length, in float32."""
    return F.normalize(features.float(), dim=-1)


def cosine(base: float, step: int, total: int, floor: float = 0.0) -> float:
    """Learning rate at `step` of `total`: torch's CosineAnnealingLR in closed form."""
    return floor + (base - floor) * (1 + math.cos(math.pi * step / total)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def minimize(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """One optimizer step on `loss`; does not wait for the device."""
    minimize_by(lambda scale: torch.autograd.backward(scale(loss)), optimizer, scaler)


def minimize_by(
    backward: Callable[[Scale], None],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """One optimizer step on what `backward` adds to the gradients of losses that it scales."""
    optimizer.zero_grad(set_to_none=True)
    backward(scaler.scale)
    scaler.step(optimizer)
    scaler.update()


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
    """How many batches `minibatches` yields."""
    return count // size if drop_last and count >= size else math.ceil(count / size)


def epoch_views(
    images: Images, epochs: int, augment: Augment, width: int, *, start: int = 0
) -> Iterator[Tensor]:
    """One (n, width) tensor of unit features per epoch: every image's own next view, from `start`.

    They are asked for in chunks of at most `VIEW_BYTES`, so that long schedules on large support
    sets fit in memory; the chunks depend on the sizes alone.
    """
    chunk = max(1, VIEW_BYTES // (4 * width * len(images)))
    for first in range(0, epochs, chunk):
        count = min(chunk, epochs - first)
        yield from images.views(count, augment, normalize=True, start=start + first)


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


def must_recompute(
    tower: ImageTower | TextTower | None, tokens: int, device: torch.device, parts: int = 1
) -> bool:
    """Whether what a step keeps of `tokens` tokens for its backward pass takes too much memory.

    Then blocks are computed again in the backward pass, which changes no number. So they are where
    memory has run out before: with `RunContext.memory_parts` above 1.
    """
    if tower is None:
        return False
    if parts > 1:
        return True
    kept = KEPT_PER_TOKEN * 4 * tokens * tower.width * tower.layers
    return kept > MEMORY_SHARE * free_memory(device)


def device_generator(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator that draws on `device`, seeded by one number from `rng`."""
    seed = int(torch.randint(2**62, (), generator=rng))
    return torch.Generator(device).manual_seed(seed)
