"""Curves of cells: in records of fits that ended well or not, the same in every run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fsbench_methods.zero_shot import ZeroShot

from fewshot_bench.api.record import Record
from fewshot_bench.runner.run import run_group, run_one
from fewshot_bench.runner.session import Session
from tests.support.helpers import cells

WHOLE = ZeroShot.fit


@pytest.fixture(scope="module")
def session() -> Session:
    return Session()


def fitting(monkeypatch: pytest.MonkeyPatch, during: Any) -> None:
    """Have zero-shot call `during(ctx)` in its fit."""

    def fit(self: ZeroShot, task: Any, backbone: Any, ctx: Any) -> Any:
        during(ctx)
        return WHOLE(self, task, backbone, ctx)

    monkeypatch.setattr(ZeroShot, "fit", fit)


def zero_shot(session: Session, **how: Any) -> Record:
    return run_one(cells("zero-shot")[0], session, **how).record


def test_two_runs_of_a_cell_have_the_same_curves(session: Session) -> None:
    (spec,) = cells("taskres", options=("taskres.epochs=3",))
    records = [run_one(spec, session).record for _ in range(2)]
    assert records[0].curves == records[1].curves
    assert records[0].curves.keys() == {"loss", "rate"}
    assert records[0].curves["loss"]["steps"][-1] == records[0].footprint["steps"]


def test_a_method_that_does_not_train_has_none(session: Session) -> None:
    assert zero_shot(session).curves == {}


def test_a_fit_that_failed_keeps_its_curves_until_then(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def during(ctx: Any) -> None:
        weight = torch.nn.Parameter(torch.ones(1))
        step = ctx.train_step(lambda x: (weight * x).sum(), torch.optim.SGD([weight], lr=1.0))
        for x in (2.0, 1.0, float("nan")):
            step(torch.tensor([x]))

    fitting(monkeypatch, during)
    record = zero_shot(session)
    assert record.status == "failed"
    assert record.error is not None
    assert "the loss is nan at optimizer step 3" in record.error["message"]
    assert record.curves["loss"] == {"steps": [1, 2], "values": [2.0, -1.0]}


def test_a_fit_that_is_tried_again_starts_its_curves_anew(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def during(ctx: Any) -> None:
        for step in range(3):
            ctx.log(step, parts=ctx.memory_parts)
            if ctx.memory_parts == 1 and step == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    fitting(monkeypatch, during)
    heard: list[Any] = []
    (spec,) = cells("zero-shot")
    (outcome,) = run_group([spec], session, listener=heard.extend)
    assert outcome.record.curves == {"parts": {"steps": [0, 1, 2], "values": [2.0, 2.0, 2.0]}}
    assert [step for step, _ in heard] == [0, 1, 0, 1, 2]


def test_values_that_are_not_finite_are_an_incident(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting(monkeypatch, lambda ctx: ctx.log(4, gap=float("inf")))
    record = zero_shot(session)
    assert (record.status, record.curves) == ("done", {})
    (incident,) = record.incidents
    assert incident["kind"] == "curves"
    assert "zero-shot: its curves leave out values that are not finite: gap" in incident["text"]


def test_the_step_can_be_named(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fitting(monkeypatch, lambda ctx: ctx.log(step=4, gap=0.5))
    assert zero_shot(session).curves == {"gap": {"steps": [4], "values": [0.5]}}


def test_a_wrong_log_fails_the_cell_with_its_line(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting(monkeypatch, lambda ctx: ctx.log(0, per_class=torch.ones(3)))
    record = zero_shot(session)
    assert record.error is not None
    assert "per_class is a torch.float32 tensor of shape (3,)" in record.error["message"]


def test_cells_of_one_fit_share_its_curves(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[int] = []

    def during(ctx: Any) -> None:
        fits.append(1)
        ctx.log(1, loss=2.0)

    fitting(monkeypatch, during)
    outcomes = list(run_group(cells("zero-shot", classes=("base", "new")), session))
    expected = {"loss": {"steps": [1], "values": [2.0]}}
    assert [outcome.record.curves for outcome in outcomes] == [expected] * 2
    assert len(fits) == 1
