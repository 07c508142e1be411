"""Deterministic kernels: the settings, their record entry, and unchanged numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from fewshot_bench.api.record import Incidents
from fewshot_bench.runner.isolation import guarded
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.utils import determinism
from tests.helpers import cells, quick

TRAINED = ("linear-probe", "tip-adapter-f", "coop", "clip-lora")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with guarded("a test", Incidents(), lambda: None):
        yield


def test_every_session_chooses_kernels_by_rule() -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
    assert determinism.mode() == "off"
    Session()
    assert not torch.backends.cudnn.benchmark
    assert determinism.mode() == "free"


@pytest.mark.parametrize("method", TRAINED)
def test_strict_mode_gives_the_same_numbers(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = cells(method, options=quick((method,)))
    plain = run_one(spec, Session())
    monkeypatch.setenv(determinism.VARIABLE, "1")
    strict = run_one(spec, Session())
    assert plain.logits is not None
    assert strict.logits is not None, strict.record.error
    assert torch.equal(plain.logits, strict.logits)
    modes = [one.record.environment["determinism"] for one in (plain, strict)]
    assert modes == ["free", "strict"]
    assert os.environ[determinism.WORKSPACE] == ":4096:8"
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("value", "asked"), [("1", True), ("0", False), ("", False)])
def test_the_variable_asks(value: str, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(determinism.VARIABLE, value)
    assert determinism.asked() == asked
