"""MMA, TCP, MMRL and full fine-tuning against their mathematics: a step, a fit, trained values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from fsbench_methods.full_ft import FullFineTuning
from fsbench_methods.mma import Mma
from fsbench_methods.mmrl import Mmrl
from fsbench_methods.tcp import Tcp
from torch import Tensor

from fewshot_bench.training.provisional import EncoderLearner
from tests.reference import towers_trained as reference
from tests.reference.toy import context, random_backbone, random_task
from tests.support.encoder_fits import (
    assert_same_fit,
    assert_same_step,
    cosine_rates,
    dassl_rates,
    started,
)

CASES: dict[str, tuple[EncoderLearner, Any, Any]] = {
    "mma": (Mma(), reference.mma_loss, reference.mma_logits),
    "tcp": (Tcp(), reference.tcp_loss, reference.tcp_logits),
    "mmrl": (Mmrl(width=40), reference.mmrl_loss, reference.mmrl_logits),
    "mma above": (Mma(depth=2), reference.mma_loss, reference.mma_logits),
    "mmrl above": (Mmrl(width=40, depth=2), reference.mmrl_loss, reference.mmrl_logits),
    "full-ft": (FullFineTuning(), reference.full_loss, reference.full_logits),
}
# MMA scales its gradients by 1e-3 and back by 1e3, which costs precision.
LOOSER = {"mma": 1e-4, "mma above": 1e-4}


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.parametrize("parts", [1, 6])
@pytest.mark.parametrize("name", CASES)
def test_a_step_equals_the_reference(backbone: Any, name: str, parts: int) -> None:
    method, loss, _ = CASES[name]
    task = random_task(backbone)
    assert_same_step(method, task, backbone, loss, parts, LOOSER.get(name, 1e-5))


def sgd(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Dassl's SGD."""
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.9, weight_decay=5e-4)


def without_warmup(epochs: int, per_epoch: int, lr: float) -> list[float]:
    """Cosine rates per epoch, without warm-up."""
    return [rate for rate in cosine_rates(epochs, lr, 0.0) for _ in range(per_epoch)]


def warmed(total: int, lr: float) -> list[float]:
    """Linear warm-up over a tenth of the steps, then a cosine."""
    rising = total // 10
    rise = [lr * (step + 1) / rising for step in range(rising)]
    return rise + cosine_rates(total - rising, lr, 0.0)


class Clipped(torch.optim.AdamW):
    """AdamW with gradient clipping."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """Clip the gradients' norm to 1 before the step."""
        gradients = [one.grad for one in self.param_groups[0]["params"]]
        norm = torch.stack([grad.norm() for grad in gradients]).norm()
        for grad in gradients:
            grad.mul_(min(1.0, 1.0 / float(norm + 1e-6)))
        return super().step(closure)


def test_whole_fits_equal_the_reference(backbone: Any) -> None:
    task = random_task(backbone)
    adam = partial(torch.optim.Adam, lr=1.0, eps=1e-3, weight_decay=5e-4)
    adamw = partial(torch.optim.AdamW, lr=1.0, weight_decay=5e-4)
    clipped = partial(Clipped, lr=1.0, weight_decay=0.1)
    size, images = 8, len(task.train)
    epochs, kept = 3, images // size
    fits: dict[str, tuple[dict[str, Any], Callable[..., Any], list[float]]] = {
        "mma": ({"lr": 0.05}, sgd, without_warmup(epochs, kept, 0.05)),
        "tcp": ({}, adam, dassl_rates(epochs, kept, 2e-3)),
        "mmrl": ({}, adamw, dassl_rates(epochs, kept, 1e-3)),
        "full-ft": ({"lr": 1e-3, "epochs": 4}, clipped, warmed(4 * -(-images // size), 1e-3)),
    }
    for name, (changed, optimizer, rates) in fits.items():
        method, loss, logits = CASES[name]
        short = replace(method, batch_size=size, **{"epochs": epochs, **changed})
        assert_same_fit(short, task, backbone, loss, logits, optimizer, rates)


def test_wise_ft_lies_between_clip_and_the_trained_weights(backbone: Any) -> None:
    task = random_task(backbone)
    ends = [FullFineTuning(epochs=1, lr=1e-3, alpha=alpha) for alpha in (0.0, 0.5, 1.0)]
    clip, middle, tuned = (one.fit(task, backbone, context()).tensors() for one in ends)
    for name, value in middle.items():
        assert torch.allclose(value, (clip[name] + tuned[name]) / 2, atol=1e-6), name
    start = started(ends[0], task, backbone)
    assert all(torch.equal(clip[name], value) for name, value in start.items())
    assert not torch.equal(tuned["head"], clip["head"])
