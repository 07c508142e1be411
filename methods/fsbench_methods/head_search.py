"""Linear heads of cross-modal adaptation, trained at several settings; the best step is kept.

Main entry point: `HeadSearch`. A head (classes, d) without bias starts at the unit text features
(cross_modal_adaptation train.py, engine/optimizer). All trainings of a seed shuffle alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import Augment, RunContext, Shots
from fewshot_bench.training import BestOnValidation, cosine, minibatches

LRS, DECAYS, SIZES = (1e-3, 1e-4), (0.0, 0.01, 1e-4), (8, 32)
WITHOUT_VALIDATION = (1e-3, 0.01)
WARMUP, FIRST_LR = 50, 1e-5
EVERY = 100
FLIPPED = Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
"""The center crop, mirrored."""


@dataclass(frozen=True)
class Samples:
    """Unit features (m, d) and labels (m,)."""

    features: Tensor
    labels: Tensor

    @classmethod
    def of_images(cls, shots: Shots) -> Samples:
        """Center crops of the support set, and their mirror images."""
        (mirrored,) = shots.views(1, FLIPPED)
        return cls(torch.cat([shots.features, mirrored]), shots.labels.repeat(2))

    def batches(self, size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless shuffled batches of `size`; the short last batch of a pass is dropped."""
        while True:
            passed = minibatches(len(self.labels), size, order, self.labels.device, drop_last=True)
            yield from ((self.features[index], self.labels[index]) for index in passed)


@dataclass(frozen=True)
class HeadSearch:
    """Trains a head that starts at `start` (classes, d); `sets` have equal shares of a batch."""

    start: Tensor
    sets: tuple[Samples, ...]
    scale: float
    iterations: int

    def sizes(self) -> tuple[int, ...]:
        """Batch sizes whose share per set is smaller than every set; (2,) if there is none."""
        smallest = min(len(samples.labels) for samples in self.sets)
        return tuple(size for size in SIZES if size // len(self.sets) < smallest) or (2,)

    def best(self, val: Shots | None, ctx: RunContext) -> Tensor:
        """The head of the first best step on validation over all settings.

        Without validation images, the last step with WITHOUT_VALIDATION and the smallest batch.
        """
        head = torch.nn.Parameter(self.start.clone())
        if val is None:
            self.train(head, *WITHOUT_VALIDATION, self.sizes()[0], None, ctx, ctx.progress)
            return head.detach()
        features, best = val.features, BestOnValidation(val.labels)

        def offer() -> None:
            ctx.log(val_accuracy=best.offer(self.scale * features @ head.T, head))

        settings = list(itertools.product(LRS, DECAYS, self.sizes()))
        for before, (lr, decay, size) in enumerate(settings):

            def report(done: int, total: int, before: int = before) -> None:
                ctx.progress(before * total + done, len(settings) * total)

            head.data.copy_(self.start)
            self.train(head, lr, decay, size, offer, ctx, report)
        offers = -(-self.iterations // EVERY)
        setting, step = divmod(int(best.step), offers)
        ctx.count_selection(len(settings) * offers, len(val))
        ctx.note(lr=settings[setting][0], weight_decay=settings[setting][1])
        ctx.note(batch_size=settings[setting][2], iteration=step * EVERY)
        return best.kept[0].detach()

    def train(
        self,
        head: torch.nn.Parameter,
        lr: float,
        decay: float,
        size: int,
        offer: Callable[[], None] | None,
        ctx: RunContext,
        report: Callable[[int, int], None],
    ) -> None:
        """Run all iterations at one setting.

        `offer` is called after steps 0, 100, 200 ..., `report` with the steps that are done.
        """
        optimizer = torch.optim.AdamW([head], lr=lr, weight_decay=decay, fused=not head.is_cpu)

        def loss(features: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.scale * features @ head.T, labels)

        take, order = ctx.train_step(loss, optimizer), ctx.rng("order")
        streams = [samples.batches(size // len(self.sets), order) for samples in self.sets]
        for step in range(self.iterations):
            features, labels = map(torch.cat, zip(*map(next, streams), strict=True))
            take(features, labels, rate=rate(step, lr, self.iterations))
            if offer is not None and step % EVERY == 0:
                offer()
            report(step + 1, self.iterations)


def rate(step: int, lr: float, iterations: int) -> float:
    """Learning rate of a step: linear over 50 steps, the first at 1e-5, then a cosine."""
    if step < WARMUP:
        return lr * step / WARMUP if step else FIRST_LR
    return cosine(lr, step - WARMUP, iterations)
