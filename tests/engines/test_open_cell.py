"""`fewshot_bench.cell`: one cell by hand gives the numbers of a run, and leaves nothing behind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.training import LinearClassifier
from tests.support.process_state import state


@dataclass(frozen=True)
class Mean:
    """As in a notebook: in no file that another process could import."""

    name = "mean"
    text: float = 0.5

    def fit(self, task: Any, backbone: Any, ctx: Any) -> LinearClassifier:
        """Blend the class means with the text features."""
        onehot = F.one_hot(task.train.labels, len(task.classnames)).float()
        means = F.normalize(onehot.T @ task.train.features, dim=-1)
        blend = means.lerp(backbone.class_features(task), self.text)
        return LinearClassifier(backbone.logit_scale * F.normalize(blend, dim=-1))


@pytest.fixture(scope="module")
def cell() -> fb.OpenCell:
    """A cell of a class."""
    return fb.cell(Mean, "digits", 2, 1, limit=60)


def test_it_is_what_fit_gets_and_the_queries(cell: fb.OpenCell) -> None:
    task, backbone, ctx = cell
    assert (task.shots, len(task.train), backbone.name) == (2, 20, "tiny")
    logits = Mean().fit(task, backbone, ctx).logits(cell.queries)
    right = (logits.argmax(dim=1) == cell.labels).float().mean().item()
    assert cell.accuracy(logits) == pytest.approx(100 * right)
    assert cell.metrics(logits)["n"] == len(cell.queries) == 60
    assert cell.method == Mean()
    assert repr(cell) == "<cell mean on digits, 2-shot, seed 1>"


def test_numbers_are_those_of_a_run(tmp_path: Path) -> None:
    by_name: dict[str, Any] = {"options": {"coop.epochs": 1}, "limit": 60}
    (record,) = fb.run(
        "coop", "digits", shots=2, seeds=1, store=tmp_path, engine="here", progress=False, **by_name
    )
    cell = fb.cell("coop", "digits", 2, 1, **by_name)
    assert cell.spec == record.spec
    classifier = cell.method.fit(*cell)
    with torch.no_grad():
        metrics = cell.metrics(classifier.logits(cell.queries))
    assert metrics == pytest.approx(record.metrics, abs=1e-3)


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: fb.OpenCell
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before, names = state(), sorted(registry().methods.entries)
    children = psutil.Process().children()
    again = fb.cell(Mean(text=0.25), "digits", 2, 1, limit=60)
    again.accuracy(again.method.fit(*again).logits(again.queries))
    assert again.method == Mean(text=0.25)
    assert state() == before
    assert psutil.Process().children() == children
    assert sorted(registry().methods.entries) == names
    assert os.listdir(tmp_path) == []


OWN = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Own:
    name = "own"

    def fit(self, task, backbone, ctx):
        return None
"""


def test_caches_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, cache = tmp_path / "own.py", tmp_path / "cache"
    file.write_text(OWN)
    monkeypatch.setenv("FSBENCH_CACHE", str(cache))
    fb.cell(f"{file}:Own", "digits", 2, 1, limit=60)
    assert not cache.exists()


def test_other_classes_are_asked_by_their_vocabulary() -> None:
    cell = fb.cell("zero-shot", "digits", 1, 1, limit=60, classes="new")
    classifier = cell.method.fit(*cell)
    with pytest.raises(fb.ContractError, match=r"logits\(\) returned shape"):
        cell.accuracy(classifier.logits(cell.queries)[:, :2])
    assert isinstance(classifier, fb.Transferable)
    other = classifier.for_classes(cell.vocabulary)
    assert 0 <= cell.accuracy(other.logits(cell.queries)) <= 100


@pytest.mark.parametrize(
    ("arguments", "more", "expected"),
    [
        (("zero-shot", "digits,letters", 1, 1), {}, "2 are asked for: add dataset='digits'"),
        (("zero-shot", "digits", [1, 2], [1, 2]), {}, "4 are asked for: add shots=1 seed=1"),
        (("zero-shot", "digits", 1, 1), {"shot": 1}, "argument of cell.. 'shot': did you mean"),
        (("zero-shot", "digits", 1, 1), {"jobs": 2}, "argument of cell.. 'jobs'"),
        (("zero-shott", "digits", 1, 1), {}, "did you mean 'zero-shot'"),
        (("zero-shot", "digits", "few", 1), {}, "shots='few'"),
    ],
)
def test_wrong_use_is_said(arguments: Any, more: dict[str, Any], expected: str) -> None:
    with pytest.raises(fb.UsageError, match=expected):
        fb.cell(*arguments, **more)
