"""`fsbench env --check` on a device of another type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fewshot_bench.cli.env import command
from fewshot_bench.runner import self_test

pytestmark = pytest.mark.usefixtures("rehearsal")


def test_the_rehearsal_device_is_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(self_test, "FAMILIES", {"coop": "prompts"})
    monkeypatch.setattr(self_test, "LONG", 1e-9)
    path = tmp_path / "check.json"
    done = CliRunner().invoke(command, ["--check", "--device", "rehearsal:1", "-O", str(path)])
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text())
    half = found["choices"]["precision"].partition(":")[0]
    assert half in ("bf16", "fp16")
    assert set(found["checks"][-1]["facts"]["gaps"]) == {"cpu", half, "soft"}
    assert "graphs of rehearsal devices" in found["choices"]["step"]
