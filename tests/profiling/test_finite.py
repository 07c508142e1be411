"""A fit with non-finite numbers ends at once, with advice."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from fewshot_bench import NumericalError
from fewshot_bench.profiling.optimizer import MOST_OVERFLOWS, FiniteNumbers, ParameterObserver
from fewshot_bench.runner.fit import Context
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from tests.support.helpers import cells, quick

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def session() -> Session:
    """A shared session, so that features are encoded once."""
    return Session()


def failure(session: Session, method: str, *options: str, **request: Any) -> dict[str, Any]:
    """Run a cell that must fail; return its error."""
    record = run_one(cells(method, options=options, **request)[0], session).record
    assert record.status == "failed", record.status
    assert record.error is not None
    return record.error


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("nan", "the loss is nan"),
        ("inf", "the loss is inf"),
        ("gradient", "a gradient is nan"),
        ("by-hand", "a gradient is nan"),
        ("lbfgs", "the loss is nan"),
        ("summed", "the loss is nan"),
    ],
)
@pytest.mark.parametrize("at", [1, 3])
def test_the_first_number_that_is_none_fails_the_cell(
    methods: Any, session: Session, how: str, what: str, at: int
) -> None:
    optimizer = torch.optim.Optimizer
    backward, step, init = torch.autograd.backward, torch.amp.GradScaler.step, optimizer.__init__
    error = failure(session, "diverging", f"how={how}", f"at={at}")
    assert error["type"] == "NumericalError"
    assert error["expected"] is True
    assert error["message"] == (
        f"diverging: {what} at optimizer step {at} of fit (learning rate 0.5, precision fp32); "
        "try a lower learning rate (-o diverging.lr=0.05)"
    )
    assert torch.autograd.backward is backward
    assert torch.amp.GradScaler.step is step
    assert optimizer.__init__ is init


def test_a_fit_is_left_at_once(methods: Any, session: Session) -> None:
    done: list[int] = []
    (spec,) = cells("diverging", options=["at=3"])
    run_one(spec, session, lambda step, total: done.append(step))
    assert done == [1, 2]


def test_a_fit_whose_numbers_are_numbers_is_let_be(methods: Any, session: Session) -> None:
    record = run_one(cells("diverging", options=["how=never"])[0], session).record
    assert record.status == "done"
    assert record.footprint["steps"] == 6


LONGER = {
    "clip-lora": "clip-lora.iterations=4",
    "coop": "coop.epochs=3",
    "tip-adapter-f": "tip-adapter-f.epochs=4",
}


@pytest.mark.parametrize("method", LONGER)
def test_built_in_methods_name_step_rate_and_what_to_try(session: Session, method: str) -> None:
    options = (f"{method}.lr=1e30", *quick([method]), LONGER[method])
    error = failure(session, method, *options, limit=10)
    assert error["type"] == "NumericalError"
    pattern = (
        rf"{method}: (the loss|a gradient) is (nan|inf) at optimizer step [1-4] of fit "
        rf"\(learning rate [\d.e+-]+, precision fp32\); try a lower learning rate "
        rf"\(-o {method}\.lr=1e\+29\)"
    )
    assert re.fullmatch(pattern, error["message"]), error["message"]


@pytest.mark.parametrize("init", ["random", "text"])
def test_a_solver_without_numbers_names_c(session: Session, init: str) -> None:
    options = (f"init={init}", "c=1e-320")
    error = failure(session, "linear-probe", *options, val="none")
    assert error["type"] == "NumericalError"
    assert "objective is not finite with C=9.99989e-321" in error["message"]
    assert "-o linear-probe.c=1" in error["message"]


def test_features_that_are_no_numbers_are_named(session: Session) -> None:
    own = Session()
    spec = cells("linear-probe", val="none")[0]
    backbone, _ = own.backbone(spec)
    encode = type(backbone).encode_image
    with pytest.MonkeyPatch.context() as patch:
        overflow = lambda self, pixels: encode(self, pixels) * float("inf")  # noqa: E731
        patch.setattr(type(backbone), "encode_image", overflow)
        error = run_one(spec, own).record.error
    assert error is not None
    assert error["type"] == "NumericalError"
    assert "features of support images are not finite (precision fp32)" in error["message"]


class Half(Context):
    """An fp16 context with a gradient scaler that also works on the CPU."""

    def scaler(self) -> torch.amp.GradScaler:
        """An enabled gradient scaler, as on CUDA."""
        return torch.amp.GradScaler("cpu", init_scale=2.0**16)


@pytest.mark.parametrize("fused", [False, True])
def test_overflow_of_a_scaled_loss_is_an_error_when_it_does_not_end(fused: bool) -> None:
    context = Half(1, CPU, "fp16")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, fused=fused)

    def steps(scaler: torch.amp.GradScaler, factors: list[float]) -> None:
        for factor in factors:
            optimizer.zero_grad()
            scaler.scale(factor * weight.sum()).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()

    inf, scaler = float("inf"), context.scaler()
    observer = ParameterObserver(FiniteNumbers("method", object(), context))
    with observer.watch():
        steps(scaler, [inf] * (MOST_OVERFLOWS - 1))
        assert scaler.get_scale() < 1
        steps(scaler, [1.0] + [inf] * (MOST_OVERFLOWS - 1) + [1.0])
    again = ParameterObserver(FiniteNumbers("method", object(), context))
    with pytest.raises(NumericalError, match="overflowed 25 times in a row"), again.watch():
        steps(scaler, [inf] * MOST_OVERFLOWS)
    last = ParameterObserver(FiniteNumbers("method", object(), context))
    with (
        pytest.raises(
            NumericalError, match=r"loss is nan at optimizer step 2 .*precision fp16\).* bf16 or"
        ),
        last.watch(),
    ):
        steps(context.scaler(), [1.0, float("nan")])


def test_what_is_watched_changes_no_number(session: Session) -> None:
    def trained(observer: ParameterObserver) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = torch.optim.AdamW([weight], lr=0.1)
        with observer.watch():
            for _ in range(5):
                optimizer.zero_grad()
                weight.exp().sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return weight.detach()

    watched = trained(ParameterObserver(FiniteNumbers("method", object(), Context(1, CPU))))
    assert torch.equal(watched, trained(ParameterObserver()))
