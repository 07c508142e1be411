"""Modules imported by a method's fit: planning needs none, workers preload them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_bench as fb
from tests.support.helpers import PATIENCE, REPOSITORY

PLANNED = """
import sys
from fewshot_bench.runner.request import Request, expand
expand(Request(("linear-probe",), ("digits",), (1,), (1,), backbone="ViT-B-32/openai"))
print([name for name in ("open_clip", "sklearn", "wandb") if name in sys.modules])
"""
METHOD = """
import dataclasses, sys
from typing import ClassVar

import torch


@dataclasses.dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    imports: ClassVar[object] = {imports!r}

    def fit(self, task, backbone, ctx):
        raise RuntimeError(" ".join(f"{{n}}: {{n in sys.modules}}" for n in ("wave", "wandb")))
"""


def test_planning_imports_none_and_no_package_of_a_training_script() -> None:
    command = [sys.executable, "-c", PLANNED]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "['open_clip']\n"


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        (("wave",), "wave: True wandb: False"),
        ("wave", "has imports='wave', expected a tuple of names of modules"),
        (("no_such_module",), "needs 'no_such_module', which cannot be imported"),
    ],
)
def test_workers_have_them_before_the_fit(tmp_path: Path, imports: object, said: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(METHOD.format(imports=imports), encoding="utf-8")
    with pytest.warns(fb.FsbenchWarning, match="1 cell failed"):
        done = fb.run(f"{file}:Own", "digits", shots=1, seeds=1, limit=8, store=tmp_path / "s")
    (record,) = done.failed()
    assert record.error is not None
    assert said in record.error["message"]
