"""Parts of training steps, and schedules: learning rates, and epochs by shots.

`coop_epochs` and `dassl_rate` are CoOp's and Dassl's schedules; a whole step is `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.utils.devices import has_float64, is_accelerator
from fewshot_bench.utils.tracing import is_exporting

T = TypeVar("T")

Autocast = Callable[[], AbstractContextManager[Any]]
"""`RunContext.autocast`: the context in which encoders and modules of a method run."""
Scale = Callable[[Tensor], Tensor]
"""Scales a loss before it is differentiated, as `torch.amp.GradScaler.scale` does."""


def unit(features: Tensor) -> Tensor:
    """Features (..., width) normalized to unit length, in float32.

    >>> unit(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    return F.normalize(features.float(), dim=-1)


def to_float64(tensor: Tensor) -> Tensor:
    """A copy in float64, on the host for a device without float64 (MPS).

    Bring results back by `.float().to(device)`.
    """
    return (tensor if has_float64(tensor.device) else tensor.cpu()).double()


def row_blocks(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Rows (n, ...) in blocks of at most `size`; a single block during `torch.export`.

    An exported program accepts any number of rows, so it cannot contain a loop over blocks.
    """
    return (rows,) if is_exporting() else torch.split(rows, size)


def cosine(base: float, step: int, total: int, floor: float = 0.0) -> float:
    """Learning rate at `step` of `total`: torch's CosineAnnealingLR in closed form.

    >>> cosine(0.1, 50, 100)  # half of the way: half of the rate
    0.05
    """
    return floor + (base - floor) * (1 + math.cos(math.pi * step / total)) / 2


def momentum_sgd(
    parameters: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float = 0.0,
    fused: bool | None = None,
) -> torch.optim.SGD:
    """SGD with momentum that is safe if a scaler skips the first step.

    Fused on accelerators by default.

    torch's fused SGD starts from uninitialized momentum buffers, and keeps them if the gradients of
    the first step overflow; here momentum starts at zero.

    >>> optimizer = momentum_sgd([context], lr=2e-3, momentum=0.9)
    """
    fused = is_accelerator(parameters[0].device) if fused is None else fused
    optimizer = torch.optim.SGD(
        parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused
    )
    if fused:
        start_momentum(optimizer)
    return optimizer


def start_momentum(optimizer: torch.optim.SGD) -> None:
    """Let momentum start at zero, where it has not started and the first step counts in full."""
    for group in optimizer.param_groups:
        if group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def device_generator(rng: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator that draws on `device`, seeded by one number from `rng`."""
    seed = int(torch.randint(2**62, (), generator=rng))
    return torch.Generator(device).manual_seed(seed)


def coop_epochs(shots: int) -> int:
    """Passes over the support set: 50 at 1 shot, 100 at 2 to 4, 200 above (CoOp COOP.md:13-21)."""
    return by_shots({1: 50, 2: 100, 5: 200}, shots)


def by_shots(values: Mapping[int, T], shots: int) -> T:
    """The value of the nearest number of shots that is not higher; else that of the lowest.

    >>> by_shots({1: 50, 4: 100}, 2)
    50
    """
    return values[max((number for number in values if number <= shots), default=min(values))]


def dassl_rate(epoch: int, epochs: int, base: float, warmup: float) -> float:
    """Learning rate of an epoch, counted from 0: `warmup` in epoch 0, then a cosine from `base`.

    Dassl's ConstantWarmupScheduler around CosineAnnealingLR(T_max=epochs) first steps the cosine at
    the end of epoch 1, so that epoch e >= 1 has rate base * (1 + cos(pi (e - 1) / epochs)) / 2.
    """
    return cosine(base, epoch - 1, epochs) if epoch else warmup
