"""Prefix tuning against its mathematics: one step in parts, a whole fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from tests.reference import prefix_tuning
from tests.reference.toy import random_backbone, random_task
from tests.support.encoder_fits import assert_same_fit, assert_same_step, dassl_rates
from tests.support.prefix_tuning import PrefixTuning


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.parametrize("parts", [1, 6])
def test_a_step_equals_the_reference(backbone: Any, parts: int) -> None:
    task = random_task(backbone, templates=("a photo of a {}.", "{} texture."))
    assert_same_step(PrefixTuning(), task, backbone, prefix_tuning.loss, parts)


def test_a_fit_equals_the_reference(backbone: Any) -> None:
    task = random_task(backbone)
    sgd = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)
    rates, given = dassl_rates(3, len(task.train) // 4, 0.05), (prefix_tuning.loss,)
    method = PrefixTuning(epochs=3, lr=0.05)
    assert_same_fit(method, task, backbone, *given, prefix_tuning.answers, sgd, rates)
