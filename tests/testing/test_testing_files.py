"""The kit on a method with a file among its hyper-parameters, which a second process restores."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fewshot_bench.testing import all_checks

SOURCE = """
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Weighted:
    name = "weighted"
    file: Path = Path("weight.txt")

    def fit(self, task, backbone, ctx) -> LinearClassifier:
        weight = float(self.file.read_text())
        return LinearClassifier(weight * backbone.logit_scale * backbone.class_features(task))
"""


def test_a_method_with_a_file_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fsbench_weighted.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "weight.txt").write_text("2.5", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fsbench_weighted", raising=False)
    method = importlib.import_module("fsbench_weighted").Weighted(file=tmp_path / "weight.txt")
    (check,) = [one for one in all_checks() if one.name.startswith("check_restored")]
    check(method)
