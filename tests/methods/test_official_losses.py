"""The steps of `benchmarks.official` have the losses and gradients of ours, on the same values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from fsbench_methods import clap
from fsbench_methods.lp_plus_plus import Blend, LpPlusPlus
from torch import Tensor

from benchmarks.accelerator import Bench
from benchmarks.official import STEPS, Setting, deep
from benchmarks.subjects import official_step
from fewshot_bench.api.registry import registry
from fewshot_bench.training import unit
from fewshot_bench.training.train_step import TrainStep, _Seen
from tests.reference.toy import random_backbone, relative_gap

CLASSES, IMAGES = 5, 10
OPTIONS: dict[str, dict[str, Any]] = {
    "adalora": {"dropout": 0.0},
    "dora": {"dropout": 0.0},
    "cocoop": {"batch_size": 2},
    "mmrl": {"depth": 2},
    "plot++": {"tolerance": 1e-12},
}
THEIRS: dict[str, dict[str, Any]] = {
    "adalora": {"rate": 0.0},
    "dora": {"rate": 0.0},
    "plot++": {"tolerance": 1e-12},
}
# Its weights have another order in our towers: compared at CLIP's.
AT_START = ("full-ft",)
# LP++'s blending has a step of its own every tenth time, AdaLoRA sets values back to zero.
UNTOUCHED = {"lp++": 1, "adalora": 18}
TOLERANCE = 1e-4


class _Taken(Exception):
    """Ends a fit after its first step."""


class First:
    """The first step of a fit, on moved values: its batch, the values, losses and gradients.

    Features stand for those of `pixels`, random images.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.batch: Sequence[Tensor] = ()
        self.pixels = torch.empty(0)
        self.values, self.losses, self.gradients = (list[Tensor]() for _ in range(3))
        method = registry().method_class(name)(**OPTIONS.get(name, {}))
        with pytest.raises(_Taken), patch.object(TrainStep, "__call__", self._taken()):
            bench.fit(method, "eager")

    def _taken(self) -> Any:
        def take(step: TrainStep, *batch: Tensor, rate: float | None = None) -> None:
            if step._before is not None:
                step._before()
            parameters = [one for group in step._optimizer.param_groups for one in group["params"]]
            rng = torch.Generator().manual_seed(5)
            for one in parameters:
                if self.name not in AT_START:
                    one.data.add_(0.02 * torch.randn(one.shape, generator=rng))
            self.values = [one.detach().clone() for one in parameters]
            self.batch = self._of_pixels(batch)
            seen = _Seen()
            step._step(self.batch, seen)
            self.losses = seen.losses
            self.gradients = [one.grad for one in parameters if one.grad is not None]
            raise _Taken

        return take

    def _of_pixels(self, batch: Sequence[Tensor]) -> Sequence[Tensor]:
        if not batch or STEPS[self.name].given != "pixels" or batch[0].ndim == 4:
            self.pixels = batch[0] if batch else self.pixels
            return batch
        shape = (len(batch[0]), 3, *self.bench.backbone.image_size)
        self.pixels = torch.randn(shape, generator=torch.Generator().manual_seed(6))
        raw = self.bench.backbone.encode_image(self.pixels)
        return (raw if self.name == "clip-adapter" else unit(raw), *batch[1:])


@pytest.fixture(scope="module")
def bench() -> Bench:
    """A random CLIP and images of noise."""
    return Bench(random_backbone(width=48, layers=3, quick_gelu=True), CLASSES, IMAGES)


@pytest.mark.parametrize("name", STEPS)
def test_official_steps_have_our_losses(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strength, blended = torch.linspace(0.5, 1.5, CLASSES), list[tuple[Tensor, Tensor]]()
    monkeypatch.setattr(clap, "multipliers", lambda probe: strength)
    # As in the official configuration, no rows are inserted before the first block.
    monkeypatch.setattr(deep.Mmrl, "depth", 2)
    start = LpPlusPlus.start

    def watched(method: LpPlusPlus, features: Tensor, *rest: Any) -> Blend:
        blend = start(method, features, *rest)
        blended.append((features, blend.blending))
        return blend

    monkeypatch.setattr(LpPlusPlus, "start", watched)
    ours = First(bench, name)
    if name == "2sfs":
        ours.values.pop()
    if name == "lp++":
        ((ours.pixels, blending),) = blended
        ours.values.append(blending)
    step: Any = STEPS[name](
        Setting(bench.backbone, bench.names, bench.labels), **THEIRS.get(name, {})
    )
    step.strength = strength
    if name not in AT_START:
        step.load(ours.values)
    labels = ours.batch[1] if len(ours.batch) > 1 else bench.labels
    found = sum(float(one.detach()) for one in step.losses(ours.pixels, labels))
    # AdaLoRA's last "loss" is the unit of its importances.
    expected = sum(float(one) for one in ours.losses) - (name == "adalora")
    assert found == pytest.approx(expected, rel=TOLERANCE)
    step.backward(ours.pixels, labels)
    if name not in AT_START:
        gradients = [one.grad for one in step.learned if one.grad is not None]
        theirs, mine = (
            torch.cat([one.flatten() for one in every]) for every in (gradients, ours.gradients)
        )
        assert relative_gap(mine, theirs[: len(mine)]) < 10 * TOLERANCE


@pytest.mark.parametrize("name", STEPS)
def test_official_steps_change_all_they_learn(bench: Bench, name: str) -> None:
    step = STEPS[name](Setting(bench.backbone, bench.names, bench.labels))
    before = [one.detach().clone() for one in step.learned]
    take = official_step(step, 2)
    take()
    take()
    each = list(zip(before, step.learned, strict=True))
    assert all(bool(value.isfinite().all()) for value in step.learned)
    assert sum(not torch.equal(one, other) for one, other in each) >= len(each) - UNTOUCHED.get(
        name, 0
    )
