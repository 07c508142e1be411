"""The linear probe against the official procedure, and its text-initialized form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fsbench_methods.linear_probe import LinearProbe
from fsbench_methods.logistic import TextLogistic, fit_logistic, search_c
from torch import Tensor

from fewshot_bench import Task
from tests.reference import linear_probe as reference
from tests.reference.toy import context, random_backbone, random_task, relative_gap


def as_array(tensor: Tensor) -> Any:
    return tensor.double().numpy()


@pytest.mark.parametrize("classnames", [("a", "b", "c", "d"), ("a", "b")], ids=["four", "two"])
def test_search_and_logits_equal_the_official_procedure(classnames: tuple[str, ...]) -> None:
    backbone = random_backbone()
    task = random_task(backbone, classnames=classnames)
    assert task.val is not None
    ctx = context()
    classifier = LinearProbe().fit(task, backbone, ctx)
    c, model = reference.searched(
        as_array(task.train.raw_features),
        task.train.labels.numpy(),
        as_array(task.val.raw_features),
        task.val.labels.numpy(),
    )
    assert ctx.notes["c"] == pytest.approx(c, rel=1e-9)
    expected = torch.from_numpy(model.decision_function(as_array(task.val.raw_features)))
    ours = classifier.logits(task.val)
    assert ours.shape == (len(task.val), len(classnames))
    if len(classnames) == 2:
        ours = ours[:, 1] - ours[:, 0]
    assert relative_gap(ours, expected.float()) < 1e-5
    assert ctx.declared == len(classnames) * 25
    assert ctx.selection["labels"] == len(task.val)


def test_the_interval_is_halved_toward_the_better_end() -> None:
    """A score that peaks at 10^2.3 leads there; retained ends are not fitted again."""
    fitted: list[float] = []

    def fit(c: float) -> Any:
        fitted.append(c)
        return c

    told: list[tuple[int, int]] = []
    found = search_c(
        fit,  # type: ignore[arg-type]
        lambda c: int(-1000 * abs(np.log10(c) - 2.3)),  # type: ignore[call-overload]
        8,
        lambda *step: told.append(step),
    )
    assert abs(np.log10(found.c) - 2.3) < 0.02
    assert len(fitted) == len(set(fitted)) == found.tried <= 7 + 2 + 7
    assert told == [(done, 16) for done in range(len(fitted) + 1)]


def test_ties_go_to_the_first_of_the_grid_and_to_the_left() -> None:
    found = search_c(lambda c: c, lambda c: 1, 8)  # type: ignore[arg-type, return-value]
    assert found.c == pytest.approx(1e5)


def test_without_validation_c_is_the_default() -> None:
    backbone = random_backbone()
    for init in ("random", "text"):
        ctx = context()
        LinearProbe(init=init, c=0.5).fit(random_task(backbone, val=0), backbone, ctx)  # type: ignore[arg-type]
        assert ctx.notes == {"c": 0.5, "c_from": "default"}
        assert ctx.selection == {"configurations": 0, "labels": 0}


def text_problem() -> tuple[TextLogistic, Any]:
    backbone = random_backbone()
    task = random_task(backbone)
    text = backbone.class_features(task)
    problem = TextLogistic(task.train.features, task.train.labels, text, 14.0)
    return problem, (task.train.features.double(), task.train.labels, text.double(), 14.0)


def test_the_objective_of_the_text_probe_equals_the_reference() -> None:
    problem, data = text_problem()
    noise = torch.randn(problem.weight.shape, generator=torch.Generator().manual_seed(0))
    problem.weight.data.add_(0.1 * noise)
    loss = problem.objective(0.3)
    loss.backward()
    expected, gradient = reference.text_objective(14.0 * problem.weight.detach(), *data, 0.3)
    assert loss.item() * 18 == pytest.approx(expected, rel=1e-9)
    assert problem.weight.grad is not None
    assert relative_gap(problem.weight.grad * 18 / 14.0, gradient) < 1e-9


@pytest.mark.parametrize("c", [0.3, 100.0])
def test_the_text_probe_is_solved_to_the_optimum(c: float) -> None:
    problem, data = text_problem()
    model = problem.fit(c, 1000)
    _, gradient = reference.text_objective(model.weight.double(), *data, c)
    _, steepest = reference.text_objective(14.0 * data[2], *data, c)
    assert gradient.abs().max() < 1e-2 * steepest.abs().max()


def test_a_strong_pull_leaves_zero_shot_and_a_weak_one_fits_the_support_set() -> None:
    problem, (features, labels, text, scale) = text_problem()
    assert relative_gap(problem.fit(1e-6, 1000).weight.double(), scale * text) < 1e-4
    answers = problem.fit(1e6, 1000).logits(features.float()).argmax(dim=-1)
    assert torch.equal(answers, labels)


@pytest.mark.parametrize("init", ["random", "text"])
def test_one_class_and_an_absent_class(init: Any) -> None:
    backbone = random_backbone()
    one = random_task(backbone, classnames=("cat",), val=2)
    logits = LinearProbe(init=init).fit(one, backbone, context()).logits(one.train)
    assert logits.shape == (3, 1)
    assert logits.isfinite().all()
    task = random_task(backbone, classnames=("a", "b", "c"), val=2)
    wider = Task(("a", "b", "c", "absent"), task.templates, task.train, task.val)
    logits = LinearProbe(init=init).fit(wider, backbone, context()).logits(task.train)
    assert logits.shape == (9, 4)
    assert logits.isfinite().all()
    assert not (logits.argmax(dim=-1) == 3).any()
    assert init == "text" or (logits[:, 3] == -1e4).all()


def test_deterministic() -> None:
    features = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    first, second = (fit_logistic(features, labels, 3, 1.0, 1000) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
