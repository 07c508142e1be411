"""Deterministic kernels: the settings, their record entry, and unchanged numbers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.fit import seed_of
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from fewshot_bench.testing.observe import ProcessState
from fewshot_bench.utils import determinism
from fewshot_bench.utils.rng import derive, isolate
from tests.support.helpers import cells, fsbench, quick

TRAINED = ("linear-probe", "clip-lora")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    state = ProcessState()
    yield
    state.restore()


def test_every_session_chooses_kernels_by_rule() -> None:
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
    assert determinism.mode() == "off"
    torch.set_float32_matmul_precision("high")
    assert determinism.allows_tf32()
    Session()
    assert not torch.backends.cudnn.benchmark
    assert not determinism.allows_tf32()
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (
        "highest",
        False,
    )
    assert determinism.mode() == "free"


def test_streams_are_those_of_earlier_versions() -> None:
    """Other numbers would give other results under the seeds of existing records."""
    assert derive(1, "order") == 2749034047882782151
    cell: Any = SimpleNamespace(spec=RunSpec("coop", "dtd", 16, 1, 2))
    assert seed_of(cell) == derive(2, "dtd", 16)


def test_a_fit_draws_by_its_training_seed() -> None:
    (spec,) = cells("coop", options=quick(("coop",)))
    specs = [replace(spec, train_seed=seed) for seed in (1, 2)]
    first, second = (run_one(one, Session()) for one in specs)
    assert first.record.split["digest"] == second.record.split["digest"]
    assert not torch.equal(first.logits, second.logits)  # type: ignore[arg-type]


def test_every_global_generator_is_seeded_inside_and_restored_after() -> None:
    def draws() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    outside = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    modes = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    with isolate(3):
        first = draws()
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(modes[2] + 1)
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()) == modes
    assert draws() == outside
    with isolate(3):
        assert draws() == first
    with isolate(4):
        assert not set(draws()) & set(first)


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
    assert determinism.is_asked() == asked


STATING = """
import os
from dataclasses import dataclass

import torch

from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Stating:
    name = "stating"

    def fit(self, task, backbone, ctx):
        cudnn = torch.backends.cudnn
        ctx.note(
            algorithms=torch.are_deterministic_algorithms_enabled(),
            workspace=os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            kernels=[cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32],
        )
        return LinearClassifier(backbone.class_features(task))
"""


@pytest.mark.parametrize("strict", [False, True])
def test_what_the_option_sets_in_a_worker(strict: bool, tmp_path: Path) -> None:
    (tmp_path / "stating.py").write_text(STATING)
    store, method = tmp_path / "store", f"{tmp_path / 'stating.py'}:Stating"
    words = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--store", store)
    assert fsbench("run", "-m", method, *words, *["--deterministic"] * strict).code == 0
    (record,) = Store(store).records()
    assert record.notes == {
        "algorithms": strict,
        "workspace": ":4096:8" if strict else None,
        "kernels": [True, False, False],
    }
