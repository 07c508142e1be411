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
    monkeypatch.setattr(self_test, "FAMILIES", {"tip-adapter-f": "", "clip-lora": ""})
    monkeypatch.setattr(self_test, "LONG", 1e-9)
    path = tmp_path / "check.json"
    done = CliRunner().invoke(command, ["--check", "--device", "rehearsal:1", "-O", str(path)])
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text())
    assert found["choices"]["precision"] == "bf16: the device computes in bf16"
    assert [set(check["facts"]["gaps"]) for check in found["checks"][3:]] == [
        {"cpu", "bf16", "soft"},
        {"cpu", "bf16", "soft"},
    ]
