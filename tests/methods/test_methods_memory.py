"""Memory at 1,000 classes: measured on small models, extrapolated to ViT-B/16 by formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods.kgcoop import KgCoOp
from fsbench_methods.prograd import ProGrad
from fsbench_methods.proker import Ridge
from torch.profiler import ProfilerActivity, profile

from benchmarks.subjects import classnames
from fewshot_bench import Augment, Task
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.fit import Context
from fewshot_bench.training import PromptLearner, unit
from fewshot_bench.training.provisional import bytes_of_views
from tests.reference.toy import CPU, MemoryShots, context, random_backbone, random_task

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


class Encoded(MemoryShots):
    """Shots whose features are random rows, so that no encoder takes memory."""

    @property
    def raw_features(self) -> torch.Tensor:
        return torch.randn(len(self), 24)

    def views(self, count: int, augment: Augment, rng: Any = None, **how: Any) -> torch.Tensor:
        width = 24 if how.get("projected", True) else 32
        rows = torch.randn(count, len(self), width)
        return F.normalize(rows, dim=-1) if how.get("normalize", True) else rows.clone()


HOLDING: dict[str, dict[str, Any]] = {
    "tip-adapter": {},
    "tip-adapter-f": {"epochs": 2},
    "ape": {},
    "ape-t": {"epochs": 2},
    "gda": {"views": 100},
    "zs-lp": {"epochs": 2},
    "clap": {"epochs": 2},
    "proker": {},
    "lp++": {"epochs": 11},
    "prolip": {"iterations": 3},
    "linear-probe": {"init": "text", "max_iter": 20},
}


@pytest.mark.parametrize("name", [*HOLDING, "proker of views"])
def test_a_fit_holds_no_more_than_its_method_declares(name: str) -> None:
    method = registry().method_class(name.split()[0])(**HOLDING.get(name, {"points": "views"}))
    backbone, classes = random_backbone(), 40
    images = 200 if "views" in name else 1200
    labels = torch.arange(classes).repeat(images // classes)
    pixels = torch.zeros(1).expand(images, 3, *backbone.image_size)
    task = Task(tuple(NAMES[:classes]), ("a {}.",), Encoded(pixels, labels, backbone), None)
    backbone.class_features(task)
    width = 32 if name == "prolip" else 24
    found = peak_bytes(lambda: method.fit(task, backbone, context()))
    declared = method.fit_bytes(images, classes, width)
    prompts = 4_000_000
    assert found <= declared + bytes_of_views(1, images, width) + prompts
    assert declared <= 6 * found
