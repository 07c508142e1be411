"""Compare methods that train inside the encoders with plain loops written from their papers.

`assert_same_step` compares one batch, `assert_same_fit` the predictions after a whole fit with
equal initial values and batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewshot_bench import Task
from fewshot_bench.training import unit
from fewshot_bench.training.provisional import EncoderLearner
from tests.reference.toy import context, relative_gap

TOLERANCE = 1e-5
Learned = dict[str, Tensor]
PlainLoss = Callable[[Any, Learned, Tensor, Tensor, Task], Tensor]
"""(open_clip's module, learned tensors, pixels, labels, task) to the loss of a batch."""
PlainLogits = Callable[[Any, Learned, Tensor, Task], Tensor]
"""(open_clip's module, learned tensors, pixels, task) to logits (n, classes)."""


def started(method: EncoderLearner, task: Task, backbone: Any, moved: float = 0.0) -> Learned:
    """Copies of the initial values plus `moved` times noise, as some start without a gradient."""
    rng = torch.Generator().manual_seed(5)
    first = method.initial(task, backbone, context())
    return {
        name: (one.detach() + moved * torch.randn(one.shape, generator=rng)).requires_grad_()
        for name, one in first.items()
    }


def assert_same_step(
    method: EncoderLearner,
    task: Task,
    backbone: Any,
    loss: PlainLoss,
    parts: int = 1,
    tolerance: float = TOLERANCE,
) -> None:
    """Assert equal loss of a batch and gradient of every learned tensor, to `tolerance`."""
    learned, theirs = (started(method, task, backbone, 0.02) for _ in range(2))
    index = torch.arange(0, len(task.train), 2)
    pixels, labels = task.train.pixels[index], task.train.labels[index]  # type: ignore[attr-defined]
    model = method.model(task, backbone, context())
    model = model.within_memory(len(index), backbone.device, parts)
    ours = method.loss(task, backbone, context())
    seen = pixels if "vision" in method.trains else task.train.features[index]
    losses: list[Tensor] = []

    def watched(batch: Any) -> Tensor:
        losses.append(ours(batch))
        return losses[-1]

    frozen = unit(backbone.encode_image(pixels)) if method.with_frozen else None
    model.backward(seen, labels, watched, learned, lambda value: value, frozen)
    expected = loss(backbone.module, theirs, pixels, labels, task)
    expected.backward()
    if parts == 1:
        assert relative_gap(losses[0], expected) < tolerance
    for name, one in learned.items():
        wanted = theirs[name].grad
        assert wanted is not None, name
        assert wanted.abs().max() > 0, name
        assert one.grad is not None, name
        assert relative_gap(one.grad, wanted) < tolerance, name


def assert_same_fit(
    method: EncoderLearner,
    task: Task,
    backbone: Any,
    loss: PlainLoss,
    logits: PlainLogits,
    optimizer: Callable[[Sequence[Tensor]], torch.optim.Optimizer],
    rates: Sequence[float],
    after: Callable[[int, Learned], None] | None = None,
) -> None:
    """Assert equal predictions after a whole fit; rates: the learning rate of every step."""
    fitted = method.fit(task, backbone, context())
    learned = started(method, task, backbone)
    steps = optimizer(list(learned.values()))
    batches = method.batches(task.train, backbone, context(), len(rates))
    for step, (pixels, labels, *_) in enumerate(itertools.islice(batches, len(rates))):
        for group in steps.param_groups:
            group["lr"] = rates[step]
        steps.zero_grad()
        loss(backbone.module, learned, pixels, labels, task).backward()
        steps.step()
        if after is not None:
            after(step, learned)
    assert task.val is not None
    expected = logits(backbone.module, learned, task.val.pixels, task)  # type: ignore[attr-defined]
    found = fitted.logits(task.val)
    assert len(found) > 10
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert relative_gap(found, expected) < 1e-3


def dassl_rates(epochs: int, per_epoch: int, lr: float, warmup: float = 1e-5) -> list[float]:
    """Dassl's rate per step from torch's own scheduler: one warm-up epoch, then the cosine."""
    weight = torch.nn.Parameter(torch.zeros(1))
    steps = torch.optim.SGD([weight], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, epochs)
    rates = [warmup]
    for _ in range(epochs - 1):
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
    return [rate for rate in rates for _ in range(per_epoch)]


def cosine_rates(total: int, lr: float, floor: float) -> list[float]:
    """Cosine rate per step from torch's own scheduler."""
    weight = torch.nn.Parameter(torch.zeros(1))
    steps = torch.optim.SGD([weight], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(steps, total, eta_min=floor)
    rates = []
    for _ in range(total):
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        schedule.step()
    return rates
