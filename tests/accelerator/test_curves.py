"""On an accelerator, curves are logged in steps without a read, and come to the host in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_bench.profiling import curves as module
from fewshot_bench.runner.fit import Context
from fewshot_bench.utils.devices import record_event
from fewshot_bench.utils.step_kind import Kind

DEVICE = "rehearsal:1"
STEPS = 130


def data(device: str) -> tuple[Tensor, Tensor]:
    """Batches of features (steps, 16, 8), and labels (16,)."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(STEPS, 16, 8, generator=rng).to(device), (torch.arange(16) % 4).to(device)


def train(ctx: Context, features: Tensor, labels: Tensor) -> None:
    """Steps of training that log more than their loss."""
    weights = torch.nn.Parameter(torch.full((4, 8), 0.1, device=ctx.device))

    def loss(batch: Tensor) -> Tensor:
        norm = weights.norm()
        ctx.log(norm=norm)
        return F.cross_entropy(batch @ weights.T, labels)

    take = ctx.train_step(loss, torch.optim.AdamW([weights], fused=True))
    for step, batch in enumerate(features.unbind()):
        take(batch, rate=0.1)
        ctx.log(step, largest=weights.detach().max())


@pytest.mark.parametrize("kind", ["eager", "soft"])
def test_no_step_reads_what_it_logs(
    kind: Kind, rehearsal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    expected = Context(1, torch.device("cpu"))
    heard: list[tuple[int, dict[str, float]]] = []
    train(expected, *data("cpu"))
    batches = data(DEVICE)
    ctx = Context(1, torch.device(DEVICE), step=kind, on_points=heard.extend)
    record_event(torch.device(DEVICE))
    rehearsal.reset_counts()
    if kind == "eager":
        with rehearsal.forbid_waits():
            train(ctx, *batches)
        assert rehearsal.counts(DEVICE)["reads"] == 0
    else:
        # Some steps are compared with eager ones, on the host.
        train(ctx, *batches)
    before = len(heard)
    ctx.settle_steps()
    curves, same = ctx.curves.finish(), expected.curves.finish()
    assert before > 50
    assert curves.keys() == same.keys() == {"loss", "rate", "norm", "largest"}
    for name, series in curves.items():
        assert series["steps"] == same[name]["steps"]
        assert series["values"] == pytest.approx(same[name]["values"], rel=1e-3)
    told = {step: values["loss"] for step, values in heard if "loss" in values}
    assert {step: told[step] for step in curves["loss"]["steps"]} == dict(
        zip(*curves["loss"].values(), strict=True)
    )


def test_curves_cost_few_launches(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    for logs in (True, False):
        if not logs:
            monkeypatch.setattr(module.Curves, "log_step", lambda *_: None)
        weights = torch.nn.Parameter(torch.ones(4, 8, device=DEVICE))
        take = Context(1, torch.device(DEVICE), step="eager").train_step(
            lambda weights=weights: weights.square().mean(), torch.optim.SGD([weights], fused=True)
        )
        rehearsal.reset_counts()
        for _ in range(1600):
            take(rate=0.1)
        launches.append(rehearsal.counts(DEVICE)["launches"])
    # 100 points, then 50 whenever the number of steps doubles.
    assert launches[0] - launches[1] == 100 + 4 * 50
