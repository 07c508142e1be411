"""Several seeds fitted in one pass: the same results, an equal share of the cost, safe failures."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fsbench_methods.clip_lora import ClipLora

from fewshot_bench.engines.scheduling import by_fit, joined
from fewshot_bench.runner.examination import Outcome
from fewshot_bench.runner.run import run_group
from fewshot_bench.runner.session import Session
from fewshot_bench.store.store import Store
from tests.helpers import PATIENCE, cells, children, flags, fsbench, record_files, start, wait_until

OPTIONS = ("clip-lora.iterations=4", "clip-lora.lr=0.002")


def outcomes(specs: Any) -> list[Outcome]:
    """One group."""
    return list(run_group(specs, Session()))


@pytest.fixture(scope="module")
def both() -> tuple[list[Outcome], list[Outcome]]:
    """Three seeds together, and each alone."""
    specs = cells("clip-lora", shots=(2,), seeds=(1, 2, 3), options=OPTIONS)
    return outcomes(specs), [outcomes([spec])[0] for spec in specs]


def test_results_are_those_of_the_runs_alone(both: Any) -> None:
    together, alone = both
    assert [one.record.status for one in together] == ["done"] * 3, together[0].record.error
    for one, other in zip(together, alone, strict=True):
        assert one.record.spec == other.record.spec
        assert one.record.split == other.record.split
        gap = (one.logits - other.logits).abs().max() / other.logits.abs().max()
        assert gap < 1e-3
    assert not torch.equal(together[0].logits, together[1].logits)


def test_costs_are_shared_and_counts_are_those_of_one(both: Any) -> None:
    for one, other in zip(*both, strict=True):
        mine, theirs = one.record.footprint, other.record.footprint
        for name in ("trained", "stored", "steps", "images_seen"):
            assert mine[name] == theirs[name], name
        computed, expected = (part["work"]["computed"] for part in (mine, theirs))
        assert computed["images"] == expected["images"]
        assert computed["flops"] == pytest.approx(expected["flops"], rel=0.05)
        assert one.record.notes["fitted_together"] == 3
        assert "fitted_together" not in other.record.notes
        assert one.record.timings["phases"]["fit"]["billed"]["wall"] > 0


def test_a_pass_that_fails_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ClipLora.fit_together

    def refuse(self: ClipLora, tasks: Any, *rest: Any) -> Any:
        if len(tasks) > 1:
            raise MemoryError("too large together")
        return whole(self, tasks, *rest)

    monkeypatch.setattr(ClipLora, "fit_together", refuse)
    specs = cells("clip-lora", seeds=(1, 2), options=OPTIONS)
    found = outcomes(specs)
    assert [one.record.status for one in found] == ["done", "done"]
    assert all("fitted_together" not in one.record.notes for one in found)


def test_other_methods_take_their_turns() -> None:
    found = outcomes(cells("linear-probe", seeds=(1, 2), options=("linear-probe.search_steps=0",)))
    assert [one.record.status for one in found] == ["done", "done"]
    assert all("fitted_together" not in one.record.notes for one in found)


def test_only_seeds_of_one_setting_are_joined() -> None:
    specs = cells("clip-lora", shots=(1, 2), seeds=(1, 2, 3), options=("rank=1,2",))
    groups = joined(by_fit(specs), 2)
    assert sorted(len(group) for group in groups) == [1] * 4 + [2] * 4
    for group in groups:
        assert len({(cell.shots, cell.options["rank"]) for cell in group}) == 1
    assert joined(by_fit(specs), 1) == by_fit(specs)
    assert len(cells("clip-lora", classes=("base", "new"))) == 2
    halves = cells("clip-lora", seeds=(1, 2), classes=("base", "new"))
    assert [len(group) for group in joined(by_fit(halves), 2)] == [4]


@pytest.mark.slow
def test_the_command_and_a_killed_worker(tmp_path: Path) -> None:
    asked = ("run", "-m", "clip-lora", "-d", "digits", "--shots", "1", "--seeds", "1,2,3")
    asked += (*flags(("clip-lora.iterations=60",)), "--limit", "40", "--together", "3")
    process = start(*asked, "--jobs", "1", "--store", tmp_path / "killed")
    wait_until(lambda: bool(children(process.pid)))
    (worker,) = children(process.pid)[:1]
    wait_until(lambda: any((tmp_path / "killed" / "claims").glob("*")))
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (out, err)
    whole = fsbench(*asked, "--store", tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert len(record_files(tmp_path / "killed")) == len(record_files(tmp_path / "whole")) == 6
    notes = [record.notes for record in Store(tmp_path / "whole").records()]
    assert all(found["fitted_together"] == 3 for found in notes)
