"""Training of encoders on batches of augmented images: AdamW along a cosine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fewshot_bench import RunContext
from fewshot_bench.training import Scale, cosine, minimize_by, set_rate

Backward = Callable[[Tensor, Tensor, Scale], None]
"""(batch, labels, scale): adds the gradients of the scaled loss of a batch to the parameters'."""
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """`steps` of AdamW, whose learning rate falls from `lr` to `last` along a cosine per step.

    done, of: steps that were made before, and all, for the display of progress.
    """

    steps: int
    lr: float
    last: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)
    done: int = 0
    of: int = 0

    def train(
        self, parameters: ParamsT, backward: Backward, batches: Batches, ctx: RunContext
    ) -> None:
        """One step on each of the next batches."""
        optimizer = torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )
        scaler, every = ctx.scaler(), self.of or self.steps
        for step, (batch, labels) in enumerate(itertools.islice(batches, self.steps)):
            set_rate(optimizer, cosine(self.lr, step, self.steps, self.last))
            minimize_by(partial(backward, batch, labels), optimizer, scaler)
            ctx.progress(self.done + step + 1, every)
