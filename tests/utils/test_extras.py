"""Optional packages: without them the rest works, and one line names what to install."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.support.helpers import PATIENCE, REPOSITORY, environment

HIDDEN = (*("ray", "pyarrow", "wandb", "mlflow", "tensorboard", "starlette", "uvicorn"),)
# Hides packages, runs commands, and predicts with a model.
WITHOUT = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
import numpy
import fewshot_bench as fb
from tests.support.helpers import fsbench
said = []
for words in json.loads(sys.argv[2]):
    done = fsbench(*words)
    said.append([done.code, done.out, done.err])
fb.adapt("digits", "model", method="zero-shot", shots=1)
table = fb.load_model("model").predict([numpy.zeros((9, 9, 3), numpy.uint8)])
said.append([type(table).__module__.partition(".")[0], list(table["image"]), sorted(table)[:2]])
print(json.dumps(said))
"""
# Runs commands, and says after each what is imported; a decoy leaves a mark where it is imported.
DECOYED = """
import json, os, sys
from tests.support.helpers import fsbench
for words in json.loads(sys.argv[1]):
    done = fsbench(*words)
    print(json.dumps([done.code, os.path.exists(os.environ["IMPORTED"])]))
"""
DECOY = """
import os, pathlib
pathlib.Path(os.environ["IMPORTED"]).touch()
raise ImportError("a decoy")
"""
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20")


def run_child(code: str, *values: object, folder: Path, first: str = "", **variables: str) -> Any:
    """The JSON lines that a script prints; first: a folder that its imports look in first."""
    path = os.pathsep.join(filter(None, (first, *sys.path, str(REPOSITORY))))
    done = subprocess.run(
        [sys.executable, "-c", code, *map(json.dumps, values)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env=environment(PYTHONPATH=path, **variables),
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_without_extras_the_main_job_works_and_one_line_names_what_is_missing(
    tmp_path: Path,
) -> None:
    commands = [
        (*RUN, "--engine", "ray"),
        (*RUN, "--jobs", "1"),
        ("compare", "--predictions", "a.parquet"),
        ("compare",),
    ]
    ((ray, run, parquet, compare, predicted),) = run_child(
        WITHOUT, HIDDEN, [[*words, "--store", "store"] for words in commands], folder=tmp_path
    )
    for (code, _, said), package, extra in ((ray, "ray", "ray"), (parquet, "pyarrow", "parquet")):
        (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert code == 2
        missing = f"needs {package}, which is not installed: pip install 'fewshot-bench[{extra}]'"
        assert missing in line
        assert "Traceback" not in said
    assert run[0] == 0, run
    assert (compare[0], "zero-shot" in compare[1]) == (0, True), compare
    assert predicted == ["pandas", ["image 0"], ["class", "error"]]


def test_help_and_run_do_not_import_what_tables_and_figures_need(tmp_path: Path) -> None:
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    for name in ("pandas", "matplotlib", "jinja2"):
        (decoys / f"{name}.py").write_text(DECOY, encoding="utf-8")
    commands = (("--help",), ("run", "--help"), (*RUN, "--store", str(tmp_path / "store")))
    mark = str(tmp_path / "imported")
    said = run_child(DECOYED, commands, folder=tmp_path, first=str(decoys), IMPORTED=mark)
    assert said == [[0, False]] * 3


def test_what_the_tests_need_is_in_their_extra() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    required = " ".join(project["dependencies"])
    assert not [name for name in HIDDEN if name in required]
    assert all(name in required for name in ("pandas", "matplotlib", "jinja2"))
    assert "fewshot-bench[app,hub]" in project["optional-dependencies"]["test"]
