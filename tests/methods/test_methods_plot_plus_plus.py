"""PLOT++ against its mathematics: plans, a step of each stage, a whole fit, trained values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from fsbench_methods.plot_plus_plus import PlotPlusPlus, TransportLearner, VisionStage, transport

from fewshot_bench.utils.errors import UsageError
from tests.reference import plot_plus_plus as plain
from tests.reference.toy import context, random_backbone, random_task, relative_gap
from tests.support.encoder_fits import assert_same_step, dassl_rates, started


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.mark.usefixtures("layout")
def test_plans_equal_the_reference() -> None:
    cosines = 2 * torch.rand(5, 7, 4, 3, generator=torch.Generator().manual_seed(1)) - 1
    ours = transport(1 - cosines, plain.EPS, plain.ROUNDS, plain.TOLERANCE)
    theirs = torch.stack([plain.plan(one) for one in cosines.flatten(0, 1)]).view_as(ours)
    assert relative_gap(ours, theirs) < 1e-5
    assert torch.allclose(ours.sum(dim=-2), torch.full((5, 7, 3), 1 / 3), atol=1e-6)


@pytest.mark.usefixtures("layout")
def test_a_plan_is_that_of_its_problem_alone() -> None:
    costs = torch.rand(9, 4, 4, generator=torch.Generator().manual_seed(1)) * torch.linspace(
        0, 2, 9
    ).view(-1, 1, 1)
    together = transport(costs, 0.1, 100, 1e-2)
    for cost, plan in zip(costs, together, strict=True):
        assert torch.equal(transport(cost, 0.1, 100, 1e-2), plan)


@pytest.mark.parametrize("parts", [1, 6])
@pytest.mark.parametrize(
    "method",
    [
        PlotPlusPlus(),
        PlotPlusPlus(
            text_prompts=2, context_tokens=3, context_init="", vision_prompts=3, vision_tokens=1
        ),
    ],
)
def test_a_step_equals_the_reference(backbone: Any, method: PlotPlusPlus, parts: int) -> None:
    assert_same_step(method, random_task(backbone), backbone, plain.loss, parts)


@pytest.mark.parametrize("parts", [1, 6])
def test_a_step_of_the_first_stage_equals_the_reference(backbone: Any, parts: int) -> None:
    method, task = PlotPlusPlus(), random_task(backbone)
    first = started(method, task, backbone, 0.02)
    text = {"text": first["text"].detach()}
    with torch.no_grad():
        classes = method.model(task, backbone, context()).class_features(first)
    options = {one.name: getattr(method, one.name) for one in fields(TransportLearner)}

    class Stage(VisionStage):
        def initial(self, *given: Any) -> dict[str, torch.Tensor]:
            return {"vision": method.initial(*given)["vision"]}

    def loss(module: Any, learned: Any, *batch: Any) -> torch.Tensor:
        return plain.loss(module, {**learned, **text}, *batch, pooled=True)

    assert_same_step(Stage(**options, classes=classes), task, backbone, loss, parts)


def test_a_fit_equals_the_reference(backbone: Any) -> None:
    method, task = PlotPlusPlus(epochs=2, lr=0.02, batch_size=6), random_task(backbone, shots=2)
    fitted = method.fit(task, backbone, context())
    learned = started(method, task, backbone)
    rates = dassl_rates(2, len(task.train) // 6, 0.02)
    for pooled, trained in ((True, [learned["vision"]]), (False, [*learned.values()])):
        steps = torch.optim.SGD(trained, lr=1.0, momentum=0.9, weight_decay=5e-4)
        batches = method.batches(task.train, backbone, context(), 2)
        for rate, (pixels, labels) in zip(rates, batches, strict=True):
            steps.param_groups[0]["lr"] = rate
            steps.zero_grad()
            plain.loss(backbone.module, learned, pixels, labels, task, pooled=pooled).backward()
            steps.step()
    for name, one in fitted.tensors().items():  # type: ignore[attr-defined]
        moved = method.initial(task, backbone, context())[name]
        assert relative_gap(one - moved, learned[name] - moved) < 1e-3
    assert task.val is not None
    expected = plain.answers(backbone.module, learned, task.val.pixels, task)  # type: ignore[attr-defined]
    found = fitted.logits(task.val)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert relative_gap(found, expected) < 1e-4


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
def test_each_stage_has_the_official_epochs(shots: int, epochs: int) -> None:
    """The official train.py replaces the 50 epochs of its configuration file, for both stages."""
    method = PlotPlusPlus()
    stage = VisionStage(**{one.name: getattr(method, one.name) for one in fields(TransportLearner)})
    for one in (method, stage):
        assert one.steps(shots, 3) == 3 * epochs
        rates = [one.rate(step, 3, 3 * epochs) for step in range(3 * epochs)]
        assert rates == pytest.approx(dassl_rates(epochs, 3, 2e-3))
    assert PlotPlusPlus(epochs=7).steps(shots, 3) == 21


def test_phrases_that_are_no_contexts_are_an_error(backbone: Any) -> None:
    method = PlotPlusPlus(context_init="a photo of a, this is a, one, a b c d")
    with pytest.raises(UsageError, match=r"context_init=.*: expected 4 phrases of 4 tokens"):
        method.initial(random_task(backbone), backbone, context())


@pytest.mark.parametrize(
    "options", [{"context_init": "a photo of a"}, {"text_prompts": 2}], ids=str
)
def test_another_number_of_phrases_is_an_error_before_a_run(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"context_init=.*: expected \d phrases of 4 tokens"):
        PlotPlusPlus(**options)
