"""Optional packages: without them the rest works, and one line names what to install."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, REPOSITORY

HIDDEN = (*("ray", "pyarrow", "wandb", "mlflow", "tensorboard", "starlette", "uvicorn"),)
HIDE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
"""
MAIN = """
from fewshot_bench.cli.main import main
main()
"""
PREDICT = """
import numpy, fewshot_bench as fb
fb.adapt("digits", "model", method="zero-shot", shots=1)
table = fb.load_model("model").predict([numpy.zeros((9, 9, 3), numpy.uint8)])
print(type(table).__module__.partition(".")[0], list(table["image"]), sorted(table)[:2])
"""
# Stands in for a package, and leaves a mark where it is imported.
DECOY = """
import os, pathlib
pathlib.Path(os.environ["IMPORTED"]).touch()
raise ImportError("a decoy")
"""
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20")


def without(*arguments: object, hidden: tuple[str, ...] = HIDDEN) -> tuple[int, str, str]:
    """Run the command line with some packages hidden."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden) + MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("compare", "--predictions", "a.parquet"), "pyarrow", "parquet"),
        ((*RUN, "--engine", "ray"), "ray", "ray"),
    ],
)
def test_what_is_missing_is_one_line(
    words: tuple[str, ...], package: str, extra: str, tmp_path: Path
) -> None:
    code, _, said = without(*words, "--store", tmp_path, hidden=(package,))
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert f"needs {package}, which is not installed: pip install 'fewshot-bench[{extra}]'" in line
    assert "Traceback" not in said


def test_the_main_job_needs_no_extra(tmp_path: Path) -> None:
    code, _, said = without(*RUN, "--jobs", "1", "--store", tmp_path)
    assert code == 0, said
    code, shown, said = without("compare", "--store", tmp_path)
    assert (code, "zero-shot" in shown) == (0, True), said


def test_a_model_predicts_without_an_extra(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=HIDDEN) + PREDICT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "pandas ['image 0'] ['class', 'image']"


def test_help_and_run_do_not_import_what_tables_and_figures_need(tmp_path: Path) -> None:
    mark, decoys = tmp_path / "imported", tmp_path / "decoys"
    decoys.mkdir()
    for name in ("pandas", "matplotlib", "jinja2"):
        (decoys / f"{name}.py").write_text(DECOY, encoding="utf-8")
    surroundings = os.environ | {"PYTHONPATH": str(decoys), "IMPORTED": str(mark)}
    for words in (("--help",), ("run", "--help"), (*RUN, "--store", str(tmp_path / "store"))):
        done = subprocess.run(
            [sys.executable, "-m", "fewshot_bench", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=surroundings,
        )
        assert done.returncode == 0, done.stderr
        assert not mark.exists(), words


def test_what_the_tests_need_is_in_their_extra() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    required = " ".join(project["dependencies"])
    assert not [name for name in HIDDEN if name in required]
    assert all(name in required for name in ("pandas", "matplotlib", "jinja2"))
    assert "fewshot-bench[app,hub]" in project["optional-dependencies"]["test"]
