"""`fsbench push`, and its model in new processes, with a local hub."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from tests.helpers import command, fsbench, image_folder
from tests.hub_server import hub_running
from tests.models import zero_shot_model

pytest.importorskip("huggingface_hub")
NAME = "hub:user/pets"


def ran(*arguments: object, environment: dict[str, str]) -> Any:
    """Run the command line in a new process."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=os.environ | environment
    )


def test_a_model_is_pushed_and_used_in_new_processes(tmp_path: Path) -> None:
    model = zero_shot_model(tmp_path / "model", ("cat", "dog"))
    photo = image_folder(tmp_path / "photos") / "test" / "cat" / "0.jpg"
    with hub_running() as hub:
        here, there = hub.environment(tmp_path / "here"), hub.environment(tmp_path / "there")
        pushed = ran("push", model, NAME, "--private", environment=here)
        assert pushed.returncode == 0, pushed.stderr
        repository = hub.repositories["user/pets"]
        commit = repository.branches["main"]
        assert pushed.stdout == f"{NAME}@{commit}\n"
        done = ran("predict", NAME, photo, "--format", "jsonl", environment=there)
        assert done.returncode == 0, done.stderr
        assert f"{NAME} is at commit {commit}; {NAME}@{commit} names it for good" in done.stderr
        (found,) = fb.load_model(model).predict(photo).to_dict("records")
        assert json.loads(done.stdout) == found


def test_a_branch_is_named_by_its_option_alone(tmp_path: Path) -> None:
    model = zero_shot_model(tmp_path / "model", ("cat", "dog"))
    done = fsbench("push", model, f"{NAME}@main")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: '{NAME}@main': name the branch to write to by --revision\n"
