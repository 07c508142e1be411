"""`fsbench push`, and its model in new processes, with a local hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fewshot_bench as fb
from tests.support.helpers import fsbench, image_folder
from tests.support.hub_server import hub_running
from tests.support.models import zero_shot_model

pytest.importorskip("huggingface_hub")
NAME = "hub:user/pets"


TWO = """
import json, sys
from fewshot_bench.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
"""


def test_a_model_is_pushed_and_used_in_a_new_process(tmp_path: Path) -> None:
    model = zero_shot_model(tmp_path / "model", ("cat", "dog"))
    photo = image_folder(tmp_path / "photos") / "test" / "cat" / "0.jpg"
    asked = [
        ["push", str(model), NAME, "--private"],
        ["predict", NAME, str(photo), "--format", "jsonl"],
    ]
    with hub_running() as hub:
        environment = os.environ | hub.environment(tmp_path / "there")
        run = [sys.executable, "-c", TWO, json.dumps(asked)]
        done = subprocess.run(run, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        commit = hub.repositories["user/pets"].branches["main"]
    name, row = done.stdout.splitlines()
    assert name == f"{NAME}@{commit}"
    assert f"{NAME} is at commit {commit}; {NAME}@{commit} names it for good" in done.stderr
    assert [json.loads(row)] == fb.load_model(model).predict(photo).to_dict("records")


def test_a_branch_is_named_by_its_option_alone(tmp_path: Path) -> None:
    model = zero_shot_model(tmp_path / "model", ("cat", "dog"))
    done = fsbench("push", model, f"{NAME}@main")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: '{NAME}@main': name the branch to write to by --revision\n"
