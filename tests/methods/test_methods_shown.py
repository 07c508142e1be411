"""Prefix tuning as the docs show it, against its mathematics: one step in parts, a whole fit."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.encoder_fits import assert_same_fit, assert_same_step, dassl_rates
from tests.helpers import REPOSITORY
from tests.reference import prefix_tuning
from tests.reference.toy import random_backbone, random_task

PAGE = (REPOSITORY / "docs" / "towers.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def backbone() -> Any:
    """A random CLIP of three layers."""
    return random_backbone(width=48, layers=3)


@pytest.fixture
def method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The method, from the file that a reader would save."""
    source = PAGE.split("<!-- example: prefixes -->\n```python\n")[1].split("```\n")[0]
    (tmp_path / "fsbench_prefix_shown.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fsbench_prefix_shown", raising=False)
    return importlib.import_module("fsbench_prefix_shown").PrefixTuning


@pytest.mark.parametrize("parts", [1, 6])
def test_a_step_equals_the_reference(backbone: Any, method: Any, parts: int) -> None:
    task = random_task(backbone, templates=("a photo of a {}.", "{} texture."))
    assert_same_step(method(), task, backbone, prefix_tuning.loss, parts)


def test_a_fit_equals_the_reference(backbone: Any, method: Any) -> None:
    task = random_task(backbone)
    sgd = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)
    rates, given = dassl_rates(3, len(task.train) // 4, 0.05), (prefix_tuning.loss,)
    shown = method(epochs=3, lr=0.05)
    assert_same_fit(shown, task, backbone, *given, prefix_tuning.answers, sgd, rates)
