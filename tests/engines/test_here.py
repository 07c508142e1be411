"""The engine `here`: the records of workers, from this process, which is afterwards as before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.api.record import Record
from tests.support.process_state import state

FEW: dict[str, Any] = {"shots": 1, "seeds": 1, "limit": 40, "progress": False}
# What a run measures.
MEASURED = ("seconds", "cpu", "joules", "peak", "wall", "elapsed", "late", "load", "gap")


def plain(record: Record) -> dict[str, Any]:
    """A record without what is measured, and without what the label process alone states."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: strip(part)
                for name, part in value.items()
                if not any(word in name for word in MEASURED)
            }
        return value

    values = dataclasses.asdict(record)
    del values["timings"]
    # It holds the times.
    del values["digests"]["record"]
    values["environment"].pop("labels", None)
    return strip(values)


def test_records_are_those_of_workers(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "options": {"coop.epochs": 1},
        "classes": ["base", "new"],
        "deterministic": True,
    }
    local = fb.run("coop", "digits", store=tmp_path / "local", jobs=1, **more, **FEW)
    before = state()
    here = fb.run("coop", "digits", store=tmp_path / "here", engine="here", **more, **FEW)
    assert state() == before
    assert len(here) == len(local) == 2
    for mine, other in zip(here, local, strict=True):
        assert plain(mine) == plain(other)


METHOD = """
from dataclasses import dataclass
from fewshot_bench.training import LinearClassifier
import torch

PLACE = __file__


@dataclass(frozen=True)
class Speaker:
    name = "speaker"
    fails: bool = False

    def fit(self, task, backbone, ctx):
        torch.set_num_threads(1)
        print("fit in", PLACE)
        if self.fails:
            raise ValueError("as asked")
        return LinearClassifier(backbone.logit_scale * backbone.class_features(task))
"""


def test_a_method_of_a_file_runs_in_this_process_and_is_heard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speaker.py"
    file.write_text(METHOD, encoding="utf-8")
    before = state()
    more = {"options": {"fails": [False, True]}, "store": tmp_path / "store", **FEW}
    with pytest.warns(fb.FsbenchWarning, match="1 cell failed"):
        done, failed = fb.run(f"{file}:Speaker", "digits", engine="here", **more)
    assert state() == before
    assert capsys.readouterr().out == f"fit in {file}\n" * 2
    assert (done.status, failed.status) == ("done", "failed")
    assert failed.error is not None
    assert f'"{file}", line 18, in fit' in failed.error["traceback"]


def test_it_cannot_end_its_own_process(tmp_path: Path) -> None:
    with pytest.raises(fb.UsageError, match="--timeout: engine 'here'"):
        fb.run("zero-shot", "digits", store=tmp_path, engine="here", timeout=9, **FEW)
