"""Curves of a fit: what is logged, by whom, how it is thinned, and who hears of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench import ContractError
from fewshot_bench.profiling import curves as module
from fewshot_bench.profiling.curves import MOST_POINTS, MOST_SERIES, Curves
from fewshot_bench.runner.fit import Context
from fewshot_bench.utils.step_kind import Kind

CPU = torch.device("cpu")
Points = list[tuple[int, dict[str, float]]]


@pytest.fixture
def ctx() -> Context:
    return Context(1, CPU)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Points:
    """What a listener of `listening` has heard, at every opportunity."""
    monkeypatch.setattr(module, "SECONDS", 0.0)
    return []


def listening(heard: Points) -> Context:
    return Context(1, CPU, on_points=heard.extend)


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 150, 199, 12_800])
def test_any_number_of_steps_gives_few_points(count: int, ctx: Context) -> None:
    for step in range(count):
        ctx.log(step, loss=step / 7)
    series = ctx.curves.finish()["loss"]
    steps = series["steps"]
    assert min(count, MOST_POINTS // 2) <= len(steps) <= MOST_POINTS
    assert (steps[0], steps[-1]) == (0, count - 1)
    strides = {after - before for before, after in itertools.pairwise(steps[:-1])}
    assert len(strides) <= 1
    assert series["values"] == pytest.approx([step / 7 for step in steps], rel=1e-4)


def test_numbers_of_all_kinds_are_numbers(ctx: Context) -> None:
    values = {
        "a": 3,
        "b": np.float32(0.5),
        "c": torch.tensor([[2.0]], dtype=torch.bfloat16),
        "d": torch.tensor(7),
        "e": torch.tensor(1 / 3, requires_grad=True),
        "f": True,
    }
    ctx.log(5, **values)
    read = {name: series["values"] for name, series in ctx.curves.finish().items()}
    expected = {"a": [3], "b": [0.5], "c": [2], "d": [7], "e": [0.33333], "f": [1]}
    assert read == expected


def test_a_tensor_that_changes_later_was_logged_as_it_was(ctx: Context) -> None:
    weight = torch.zeros(1)
    for step in range(5):
        weight += 1
        ctx.log(step, weight=weight)
    weight += 1
    assert ctx.curves.finish()["weight"]["values"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        (1.5, {"loss": 1}, "ctx.log: step is 1.5, expected a whole number from 0"),
        (-1, {"loss": 1}, "ctx.log: step is -1"),
        (True, {"loss": 1}, "ctx.log: step is True"),
        (10**16, {"loss": 1}, "expected at most"),
        (0, {"val acc": 1}, "'val acc' is not the name of a series: expected letters, digits"),
        (0, {"a" * 41: 1}, "at most 40"),
        (0, {"loss": "2.5"}, "loss is '2.5', expected a number or a tensor with one element"),
        (0, {"loss": None}, "loss is None"),
        (0, {"loss": torch.ones(3)}, r"tensor of shape \(3,\), expected one number: log its mean"),
        (0, {"loss": torch.ones(0)}, r"shape \(0,\)"),
        (0, {f"s{n}": 0 for n in range(MOST_SERIES + 1)}, "'s20' would be series 21 of this fit"),
    ],
)
def test_what_is_no_curve_is_refused(
    step: Any, values: dict[str, Any], message: str, ctx: Context
) -> None:
    with pytest.raises(ContractError, match=message):
        ctx.log(step, **values)


@pytest.mark.parametrize("again", [4, 5])
def test_steps_go_up(again: int, ctx: Context) -> None:
    ctx.log(5, loss=1.0)
    with pytest.raises(ContractError, match=f"loss at step {again} follows step 5, expected a lat"):
        ctx.log(again, loss=1.0)
    ctx.log(again, second=1.0)


def test_an_own_loop_that_gives_no_step_is_told_to(ctx: Context) -> None:
    ctx.log(gap=1.0)
    with pytest.raises(ContractError, match=r"give one: ctx.log\(epoch, gap=...\)"):
        ctx.log(gap=0.5)


def test_numbers_that_json_lacks_are_left_out_and_told(ctx: Context) -> None:
    for step, value in enumerate([1.0, float("nan"), float("inf"), 1e301, 2.0]):
        ctx.log(step, loss=value, gap=float("nan"))
    assert ctx.curves.finish() == {"loss": {"steps": [0, 4], "values": [1.0, 2.0]}}
    assert "not finite: " in ctx.curves.dropped
    assert "loss (first at step 1)" in ctx.curves.dropped
    assert "gap (first at step 0)" in ctx.curves.dropped


def train(
    ctx: Context, steps: int, kind: Kind = "eager", more: Any = None, parts: int = 1
) -> list[float]:
    """The losses of steps of `ctx.train_step_by`, each of which scales its loss in parts."""
    ctx._step = kind
    rng = torch.Generator().manual_seed(0)
    weights = torch.nn.Parameter(torch.randn(4, 8, generator=rng))
    features, labels = torch.randn(steps, 16, 8, generator=rng), torch.arange(16) % 4
    losses: list[float] = []

    def loss(batch: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(batch @ weights.T, labels)

    def backward(batch: Tensor, labels: Tensor, scale: Any) -> None:
        for rows in torch.arange(16).tensor_split(parts):
            share = loss(batch[rows], labels[rows])
            if more is not None:
                more(share, weights)
            torch.autograd.backward(scale(share / parts))

    take = ctx.train_step_by(backward, torch.optim.AdamW([weights], fused=True))
    for number in range(steps):
        losses.append(float(loss(features[number], labels).detach()))
        take(features[number], labels, rate=0.1 / (1 + number))
    ctx.settle_steps()
    return losses


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_a_training_step_logs_its_loss_and_rate(kind: Kind, parts: int, ctx: Context) -> None:
    losses = train(ctx, 203, kind, parts=parts)
    curves = ctx.curves.finish()
    steps = curves["loss"]["steps"]
    assert steps == curves["rate"]["steps"]
    assert (steps[0], steps[-1]) == (1, 203)
    assert curves["loss"]["values"] == pytest.approx([losses[s - 1] for s in steps], rel=1e-4)
    assert curves["rate"]["values"] == pytest.approx([0.1 / s for s in steps], rel=1e-4)


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_terms_of_a_loss_are_logged_in_the_step(kind: Kind, ctx: Context) -> None:
    def more(share: Tensor, weights: Tensor) -> None:
        ctx.log(double=2 * share, first=weights[0, 0])

    losses = train(ctx, 40, kind, more, parts=4)
    curves = ctx.curves.finish()
    assert curves["double"]["steps"] == curves["loss"]["steps"]
    assert curves["double"]["values"] == pytest.approx([2 * loss for loss in losses], rel=1e-4)
    # As it was in the step, before the optimizer changed it.
    start = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))[0, 0]
    assert curves["first"]["values"][0] == pytest.approx(float(start), rel=1e-4)
    assert len(set(curves["first"]["values"])) == 40


def test_in_a_step_that_may_be_captured_no_number_of_python_is_logged(ctx: Context) -> None:
    with pytest.raises(ContractError, match="inside a training step, which may be repeated"):
        train(ctx, 1, more=lambda share, weights: ctx.log(3, double=share))
    with pytest.raises(ContractError, match="expected a tensor with one element"):
        train(ctx, 1, more=lambda share, weights: ctx.log(double=2.0))


def test_the_series_of_a_method_takes_the_place_of_the_steps_own(ctx: Context) -> None:
    train(ctx, 3)
    ctx.log(0, loss=7.0)
    train(ctx, 3)
    ctx.log(1, loss=8.0)
    curves = ctx.curves.finish()
    assert curves["loss"] == {"steps": [0, 1], "values": [7, 8]}
    assert curves["rate"]["steps"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_a_step_may_log_another_loss(kind: Kind, ctx: Context) -> None:
    losses = train(ctx, 9, kind, lambda share, weights: ctx.log(loss=3 * share))
    values = ctx.curves.finish()["loss"]["values"]
    assert values == pytest.approx([3 * loss for loss in losses], rel=1e-4)


def test_without_a_step_it_is_that_of_training(ctx: Context) -> None:
    train(ctx, 3)
    ctx.log(val_accuracy=70.0)
    train(ctx, 3)
    ctx.log(val_accuracy=80.0)
    assert ctx.curves.finish()["val_accuracy"] == {"steps": [3, 6], "values": [70, 80]}


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_a_rate_that_a_scheduler_sets_is_logged(kind: Kind) -> None:
    ctx = Context(1, CPU, step=kind)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    take = ctx.train_step(lambda: weight.square().sum(), optimizer)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(6):
        take()
        scheduler.step()
    expected = [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625]
    assert ctx.curves.finish()["rate"]["values"] == pytest.approx(expected)


def test_a_listener_hears_every_kept_point_once(heard: Points) -> None:
    ctx = listening(heard)
    losses = train(ctx, 250)
    before = len(heard)
    ctx.log(300, val_accuracy=70.0)
    curves = ctx.curves.finish()
    steps = [step for step, values in heard if "loss" in values]
    assert before > 50
    assert steps == sorted(set(steps))
    assert set(curves["loss"]["steps"]) <= set(steps)
    assert all(
        values["loss"] == pytest.approx(losses[step - 1], rel=1e-4)
        for step, values in heard
        if "loss" in values
    )
    assert (300, {"val_accuracy": 70.0}) in heard


def test_a_listener_is_not_called_more_than_once_a_second() -> None:
    calls: list[Points] = []
    ctx = Context(1, CPU, on_points=calls.append)
    train(ctx, 20)
    assert len(calls) <= 1
    ctx.curves.finish()
    assert [step for points in calls for step, _ in points] == list(range(1, 21))


def test_after_the_fit_nothing_is_logged(heard: Points) -> None:
    ctx = listening(heard)
    ctx.log(1, loss=1.0)
    assert ctx.curves.finish() == {"loss": {"steps": [1], "values": [1.0]}}
    ctx.log(2, loss=1.0)
    train(ctx, 2)
    assert ctx.curves.finish() == {}
    assert heard == [(1, {"loss": 1.0})]


def test_without_a_log_there_are_no_curves() -> None:
    assert Curves().finish() == {}
