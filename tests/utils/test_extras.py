"""Optional packages: without them the rest works, and one line names what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, REPOSITORY

HIDDEN = (
    *("jinja2", "matplotlib", "pandas", "ray", "pyarrow", "wandb", "mlflow", "tensorboard"),
    *("starlette", "uvicorn"),
)
CODE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
from fewshot_bench.cli.main import main
main()
"""
RUN = ("run", "-m", "zero-shot", "-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20")


def without(*arguments: object, hidden: tuple[str, ...] = HIDDEN) -> tuple[int, str, str]:
    """Run the command line with some packages hidden."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(hidden=hidden), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("report",), "jinja2", "report"),
        (("report",), "matplotlib", "report"),
        (("compare", "--figure", "a.svg"), "matplotlib", "report"),
        (("sweep", "coop", "-o", "lr=1,2", "-O", "a.svg"), "matplotlib", "report"),
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


def test_what_the_tests_need_is_in_their_extra() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    required = " ".join(project["dependencies"])
    assert not [name for name in HIDDEN if name in required]
    assert "fewshot-bench[app,hub,pandas,report]" in project["optional-dependencies"]["test"]
