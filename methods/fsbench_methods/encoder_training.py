"""Training of encoders on batches of augmented images: AdamW with a cosine schedule."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fewshot_bench import RunContext
from fewshot_bench.training import cosine
from fewshot_bench.training.provisional import Backward

Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Schedule:
    """`steps` of AdamW, whose learning rate falls from `lr` to `last` along a cosine per step."""

    steps: int
    lr: float
    last: float
    weight_decay: float
    betas: tuple[float, float] = (0.9, 0.999)

    def train(
        self, parameters: ParamsT, backward: Backward, batches: Batches, ctx: RunContext
    ) -> None:
        """Take one step on each of the first `steps` batches."""
        optimizer = torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )
        take = ctx.train_step_by(backward, optimizer)
        for step, (batch, labels) in enumerate(itertools.islice(batches, self.steps)):
            take(batch, labels, rate=cosine(self.lr, step, self.steps, self.last))
            ctx.progress(step + 1, self.steps)
