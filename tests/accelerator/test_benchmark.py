"""`benchmarks.accelerator` runs on a CPU and on a device of another type."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import accelerator
from benchmarks.accelerator import SMALL, Row, measure, table
from fewshot_bench.api.method_card import read_card
from fewshot_bench.api.registry import registry

pytestmark = pytest.mark.usefixtures("rehearsal")
ONE = replace(SMALL, precisions=("fp32",), methods=("coop",), options={"coop": {"epochs": 1}})


@pytest.mark.parametrize("name", ["cpu", "rehearsal:1"])
def test_small_sizes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    measure(torch.device(name), ONE, path)
    found = json.loads(path.read_text())
    eager, captured = (Row(**row) for row in found["steps"])
    assert (eager.step, captured.step) == ("eager", "soft")
    for row in (eager, captured):
        assert row.note == ""
        assert row.ours is not None
        assert row.peak is not None
        assert (row.megabytes is None) == (name == "cpu")
    (whole,) = found["whole"]
    assert (whole["method"], whole["images"]) == ("coop", 4)
    assert path.with_suffix(".md").read_text().count("\n") == 4


def test_official_steps_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = accelerator.backbone_of("tiny", torch.device("cpu"), "fp32")
    bench = accelerator.Bench(backbone, 3, 8)
    calls: list[str] = []
    method = accelerator.registry().method_class("coop")()
    row = Row("coop", "tiny", 3, "fp32", "eager")
    monkeypatch.setattr(bench, "official", lambda name, count: partial(calls.append, name))
    found = bench.time_steps(method, row, ONE, 1e9)
    assert calls == ["coop"] * ONE.timed
    assert found.official is not None
    assert found.encoding is not None
    assert "" not in found.cells()[5:9]


def test_a_row_without_numbers_says_why() -> None:
    text = table([Row("zero-shot", "tiny", 3, "fp32", "eager", note="takes no step")])
    assert (
        text.splitlines()[-1]
        == "| zero-shot | tiny | 3 | fp32 | eager |  |  |  |  |  |  |  | takes no step |"
    )


@pytest.mark.parametrize("name", ["cpu", "rehearsal:1"])
def test_every_trained_method_has_an_official_step(name: str) -> None:
    """In bf16, whose casts are those of accelerators; it runs on tensors of the device alone."""
    bench = accelerator.Bench(accelerator.backbone_of("tiny", torch.device(name), "bf16"), 3, 4)
    without = []
    for method in accelerator.trained_methods():
        step = bench.official(method, 2)
        if step is None:
            without.append(method)
        else:
            step()
    # The code of ape-t has no license, so that its step is not written again; methods at test time
    # take steps for a query, or none.
    own = {name for name in without if read_card(registry().method_class(name)()).sees == "query"}
    assert own == {"ape", "ape-t", "gda", "linear-probe", "proker", "tip-adapter", "zero-shot"}
