"""`fsbench check --device rehearsal`: the rules of devices, each with a method that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewshot_bench.testing import run_checks
from fewshot_bench.testing.bench import Bench
from fewshot_bench.testing.failure import CheckFailure
from fewshot_bench.testing.kit import all_checks, checks_on
from fewshot_bench.testing.rehearsal import build
from fewshot_bench.utils.errors import UsageError
from tests.support.helpers import fsbench
from tests.support.rehearsal import DEVICE, Planted, Step

OWN = [check for check in checks_on(DEVICE) if check.name not in {c.name for c in all_checks()}]


def _overflow(step: Step) -> None:
    if step.ctx.precision == "fp16":
        step.weight.detach().fill_(torch.nan)


def _doubled_on_devices(logits: Tensor) -> Tensor:
    return logits if logits.device.type == "cpu" else logits * 2


BREAKERS = {
    "check_the_host_does_not_wait": (
        Planted(lambda step: step.loss.item() and None),
        r"in a training step: read by _local_scalar_dense at test_check.py:\d+",
    ),
    "check_gives_the_logits_of_a_cpu": (
        Planted(finish=_doubled_on_devices),
        "logits differ from those of a CPU",
    ),
    "check_fits_and_predicts_in_fp16": (Planted(_overflow), "not finite"),
}


@pytest.mark.parametrize("check", OWN, ids=lambda check: check.name)
def test_each_rule_of_devices(rehearsal: object, check: Callable[[Bench], None]) -> None:
    method, reason = BREAKERS[check.name]
    check.function(Bench(Planted(), DEVICE))
    with pytest.raises(CheckFailure, match=reason):
        check.function(Bench(method, DEVICE))


@pytest.mark.usefixtures("inherited")
def test_all_rules_on_the_command_line() -> None:
    result = fsbench("check", "zero-shot", "--device", DEVICE)
    assert result.code == 0, result.out
    assert "pass  check_the_host_does_not_wait\n" in result.out
    assert "pass  check_restored_from_its_tensors_it_answers_alike\n" in result.out


def test_a_device_that_is_not_there() -> None:
    result = fsbench("check", "zero-shot", "--device", "rehearsal:7")
    assert result.code != 0
    assert "device 'rehearsal:7': this machine has " in result.err


def test_mixed_devices_are_one_line_with_their_place(rehearsal: object) -> None:
    planted = Planted(lambda step: (step.loss * step.labels.cpu()).sum())
    failed = [one for one in run_checks(planted, device=DEVICE) if one.outcome == "failed"]
    assert len({one.reason for one in failed if "rehearsal:1 and cpu" in one.reason}) == 1
    assert any("test_check.py:" in one.place for one in failed)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match=r"needs a C.. compiler, and 'no-such-compiler' is not"):
        build()
