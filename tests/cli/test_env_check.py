"""`fsbench env --check`: its verdict, its file, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fewshot_bench.cli.env import command
from fewshot_bench.runner import self_test


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method, and few small measurements."""
    monkeypatch.setattr(self_test, "FAMILIES", {"tip-adapter-f": "cached features"})
    monkeypatch.setattr(self_test, "LONG", 1e-9)
    monkeypatch.setattr(self_test, "CROPS", 32)


def test_a_device_that_computes_right_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "check.json"
    done = CliRunner().invoke(command, ["--check", "--device", "cpu", "--output", str(path)])
    assert done.exit_code == 0, done.output
    assert "cpu is ready: fp32, eager steps" in done.stdout
    found = json.loads(path.read_text())
    assert found["choices"]["step"] == "eager: torch has no graphs of cpu devices"
    assert [check["passed"] for check in found["checks"]] == [None, None, None, True]
    gaps = found["checks"][-1]["facts"]["gaps"]
    assert set(gaps) == {"bf16", "soft"}
    assert 0 < gaps["bf16"] < self_test.ROUNDED
    assert gaps["soft"] < 1e-4
    assert found["packages"]["torch"]


def test_a_device_that_computes_otherwise_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "ROUNDED", 0.0)
    monkeypatch.setattr(self_test, "_measure_crops", _break)
    done = CliRunner().invoke(command, ["--check", "--device", "cpu"])
    assert done.exit_code == 1
    assert "FAIL break: RuntimeError: no images" in done.stdout
    assert "2 checks failed: break, tip-adapter-f (cached features)" in done.stdout
    assert "--output FILE" in done.stdout


def _break(*_: object) -> object:
    raise RuntimeError("no images")


def test_options_of_the_check_ask_for_it() -> None:
    done = CliRunner().invoke(command, ["--device", "cpu"])
    assert "--device goes with --check" in str(done.exception)
