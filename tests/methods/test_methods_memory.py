"""Memory at 1,000 classes: measured on small models, extrapolated to ViT-B/16 by formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fsbench_methods.kgcoop import KgCoOp
from fsbench_methods.prograd import ProGrad
from fsbench_methods.proker import Ridge
from torch.profiler import ProfilerActivity, profile

from benchmarks.subjects import classnames
from fewshot_bench.runner.context import Context
from fewshot_bench.training import PromptLearner, unit
from tests.reference.toy import CPU, random_backbone, random_task

GB = 1e9
NAMES = classnames(1000)
WIDTH, VIT_B16_WIDTH, VIT_B16_LAYERS = 64, 512, 12
# The rest of the 4 GB is for weights (0.6 GB), libraries and features.
FOR_A_STEP = 2 * GB


def peak_bytes(run: Callable[[], Any]) -> int:
    """Peak allocation of `run` beyond the initial state, from torch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def step_bytes(method: PromptLearner, layers: int) -> int:
    """Peak memory of one step with 32 images and 1,000 class names."""
    backbone = random_backbone(width=WIDTH, layers=layers)
    task = random_task(backbone, classnames=NAMES, shots=1, val=0)
    ctx, tower, losses = Context(3, CPU), backbone.text_tower(), method.losses(task, backbone)
    context = torch.nn.Parameter(method.initial_context(task, backbone, tower, ctx))
    model = method.model(task, backbone, tower, len(context), ctx)
    features, labels = task.train.features[:32], task.train.labels[:32]
    return peak_bytes(
        lambda: method.backward(model, context, losses, features, labels, lambda loss: loss)
    )


@pytest.mark.parametrize("method", [KgCoOp(), ProGrad()], ids=["kgcoop", "prograd"])
def test_a_step_of_prompts(method: PromptLearner) -> None:
    one, three = (step_bytes(method, layers) for layers in (1, 3))
    a_layer = (three - one) / 2
    at_vit_b16 = (one + (VIT_B16_LAYERS - 1) * a_layer) * VIT_B16_WIDTH / WIDTH
    assert 0.5 * GB < at_vit_b16 < FOR_A_STEP


def test_proker_holds_the_kernel_twice() -> None:
    """One copy in float32 and one, factored in place, in float64; the rest is points x classes."""
    points = 1600
    features = unit(torch.randn(points, 16, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(points) % 4
    found = peak_bytes(lambda: Ridge(features, labels, features[:4]).solve(1.0, 0.1))
    assert found < 12.5 * points**2
    assert 12.5 * (16 * len(NAMES)) ** 2 < 4 * GB
