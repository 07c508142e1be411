"""Cells whose captured steps fail are fitted with eager steps, by another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.helpers import Result, fsbench

METHOD = """
import os
import random
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fewshot_bench.training import LinearClassifier, back_ends


@dataclass(frozen=True)
class Stepping:
    name: ClassVar[str] = "stepping"
    how: Literal["sound", "reads", "raises", "wraps", "swallows", "capture", "drifts"] = "sound"
    at: int = 0

    def fit(self, task, backbone, ctx):
        with open(os.environ["FSBENCH_TEST_FITS"], "a") as log:
            log.write(f"{os.getpid()} ")
        if self.how == "capture":
            back_ends.SoftBackEnd.capture = _refuse
        start = backbone.class_features(task)
        weights = torch.nn.Parameter(start.clone())
        rng, done = ctx.rng("noise"), [0]

        def loss(features, labels):
            noise = torch.randn(features.shape, generator=rng, device=features.device)
            value = F.cross_entropy(5 * (features + 0.1 * noise) @ weights.T, labels)
            # A captured step was recorded third.
            value = value * (3.0 if self.how == "drifts" and done[0] >= self.at + 3 else 1.0)
            if self.how == "reads" and value.item() < 0:
                raise ValueError
            if self.how in ("raises", "wraps", "swallows") and _get_current_dispatch_mode():
                random.random(), np.random.rand(), torch.rand(1), rng.manual_seed(3)
                raise RuntimeError("CUDA error: operation not permitted when capturing")
            return value

        step = ctx.train_step(loss, torch.optim.AdamW([weights], lr=0.01))
        for done[0] in range(1, 16):
            # As augmentation does.
            shift = random.random() + np.random.rand() + float(torch.rand(1))
            try:
                step(task.train.features + 0.01 * shift, task.train.labels)
            except Exception as error:
                if self.how == "wraps":
                    raise RuntimeError("no training") from error
                if self.how != "swallows":
                    raise
        return LinearClassifier(weights.detach())


def _refuse(*_):
    random.random()
    raise torch.OutOfMemoryError("out of memory while capturing")
"""
FAILURES = [
    ("reads", 0, "it reads values on the host (_local_scalar_dense)"),
    ("raises", 0, "CUDA error: operation not permitted when capturing"),
    ("wraps", 0, "CUDA error: operation not permitted when capturing"),
    ("swallows", 0, "CUDA error: operation not permitted when capturing"),
    ("capture", 0, "out of memory while capturing"),
    ("drifts", 4, "a repeated step differs from an eager one by"),
    ("drifts", 7, "a repeated step differs from an eager one by"),
]


class Runs:
    """Runs of `stepping` in one folder; `pids` of its fits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._method = folder / "stepping.py"
        self._method.write_text(METHOD, encoding="utf-8")

    def run(self, store: str, how: str, at: int, *more: str) -> Result:
        """Run it on two draws with one worker."""
        words = ("-d", "digits", "--shots", "2", "--limit", "40", "--jobs", "1", "--seeds", "1,2")
        chosen = ("-o", f"stepping.how={how}", "-o", f"stepping.at={at}")
        where = ("--store", self._folder / store)
        return fsbench("run", "-m", f"{self._method}:Stepping", *words, *chosen, *where, *more)

    def records(self, store: str) -> list[Record]:
        """Records by seed."""
        found = Store(self._folder / store).records()
        return sorted(found, key=lambda record: record.spec.train_seed)

    def pids(self) -> list[str]:
        """The process of each fit so far."""
        return (self._folder / "fits").read_text().split()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A folder for runs, whose steps are captured in software unless they ask for others."""
    monkeypatch.setenv("FSBENCH_TEST_FITS", str(tmp_path / "fits"))
    monkeypatch.setenv("FSBENCH_STEP", "soft")
    return Runs(tmp_path)


@pytest.mark.parametrize(("how", "at", "reason"), FAILURES)
def test_a_failed_capture_is_fitted_eagerly_by_another_process(
    how: str, at: int, reason: str, runs: Runs
) -> None:
    assert runs.run("eager", how, at, "--step", "eager").code == 0
    before = len(runs.pids())
    done = runs.run("captured", how, at)
    assert done.code == 0, done.err
    expected, found = runs.records("eager"), runs.records("captured")
    assert [r.logits_digest for r in found] == [r.logits_digest for r in expected]
    assert not any(record.incidents for record in expected)
    for record in found:
        (incident,) = record.incidents
        assert incident["kind"] == "step"
        assert incident["text"].startswith(f"stepping: steps are eager, not soft: {reason}")
    said = [line for line in (done.out + done.err).splitlines() if "steps are eager" in line]
    assert len(set(said)) == len(said) > 0
    pids = runs.pids()[before:]
    if how == "reads":
        # No step of this code can be captured: later cells do not try.
        assert (len(said), len(pids), len(set(pids))) == (1, 3, 2)
        assert pids[0] not in pids[1:]
    else:
        assert len(pids) == 4
        assert all(pids[n] != pids[n + 1] for n in (0, 2))


def test_a_sound_step_is_captured_in_one_process(runs: Runs) -> None:
    assert runs.run("captured", "sound", 0).code == 0
    assert {r.footprint["step"] for r in runs.records("captured")} == {"soft"}
    assert not any(record.incidents for record in runs.records("captured"))
    assert len(set(runs.pids())) == 1


@pytest.mark.parametrize(("how", "at", "reason"), [FAILURES[0], FAILURES[1], FAILURES[5]])
def test_a_failed_capture_without_a_worker_ends_the_run(
    how: str, at: int, reason: str, runs: Runs
) -> None:
    done = runs.run("here", how, at, "--engine", "here")
    assert done.code == 1
    assert f"training steps cannot be repeated (soft): {reason}" in done.err
    assert "use --step eager" in done.err
    assert len(runs.pids()) == 1
    # The next run tries the cell again by itself.
    assert runs.run("here", how, at, "--engine", "here", "--step", "eager").code == 0
    assert [record.status for record in runs.records("here")] == ["done"] * 2
