"""VPT against its mathematics: one step, a whole fit, trained values."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from fsbench_methods.vpt import VptDeep, VptShallow

from tests.reference import vpt
from tests.reference.toy import random_backbone, random_task
from tests.support.encoder_fits import assert_same_fit, assert_same_step, dassl_rates

TEMPLATES = ("a photo of a {}.", "{} texture.")


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.parametrize("parts", [1, 6])
@pytest.mark.parametrize("method", [VptDeep(), VptDeep(tokens=2, depth=2), VptShallow()])
def test_a_step_equals_the_reference(backbone: Any, method: VptDeep, parts: int) -> None:
    task = random_task(backbone, templates=TEMPLATES)
    assert_same_step(method, task, backbone, vpt.loss, parts)


@pytest.mark.parametrize("method", [VptDeep(epochs=3, lr=0.05), VptShallow(epochs=3, lr=0.05)])
def test_a_fit_equals_the_reference(backbone: Any, method: VptDeep) -> None:
    task = random_task(backbone)
    sgd = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)
    rates = dassl_rates(3, len(task.train) // 4, 0.05)
    assert_same_fit(method, task, backbone, vpt.loss, vpt.answers, sgd, rates)
