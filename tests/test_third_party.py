"""A separate package, installed from its wheel, brings a method and a data set."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support.helpers import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[1]
PLUGIN = REPOSITORY / "tests" / "support" / "third_party_plugin"


def run(
    *command: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command outside the checkout and keep its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=os.sep,
        env=environment | (env or {}),
        check=False,
    )


def good(result: subprocess.CompletedProcess[str]) -> str:
    """The standard output of a command that succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the project and the plug-in, installed from wheels.

    Heavy dependencies are visible through a `.pth` file; the project itself is not imported from
    there, since the environment's own site-packages come first.
    """
    pytest.importorskip("hatchling", reason="building the two wheels offline needs hatchling")
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, with_pip=False, symlinks=True)
    folder = "Scripts" if os.name == "nt" else "bin"
    python = root / folder / Path(sys.executable).name
    python = python if python.exists() else root / folder / "python"
    site = Path(
        good(run(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))")).strip()
    )
    (site / "heavy.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--ignore-installed", "-q")
    good(run(python, "-m", "pip", "install", *options, REPOSITORY, PLUGIN))
    return root / folder


@pytest.mark.slow
def test_the_plugin_runs_by_name_from_its_own_package(scripts: Path, tmp_path: Path) -> None:
    fsbench, store = scripts / "fsbench", tmp_path / "store"
    listed = good(run(fsbench, "list", "methods")).splitlines()
    (own,) = [line.split() for line in listed if line.startswith("prototype ")]
    assert own[1:-1] == ["-", "-", "query", "-", "-"]
    assert "blobs" in good(run(fsbench, "list", "datasets"))
    chosen = ("--method", "prototype", "--dataset", "blobs", "--backbone", "tiny", "--jobs", "1")
    good(run(fsbench, "run", *chosen, "--shots", "1,2", "--seeds", "1", "--store", store))
    table = good(run(fsbench, "compare", "--store", store, "--format", "csv"))
    rows = [row for row in csv.DictReader(io.StringIO(table)) if row["dataset"] == "blobs"]
    assert [(row["method"], row["shots"]) for row in rows] == [
        ("prototype", "1"),
        ("prototype", "2"),
    ]
    assert all(25 < float(row["top1_mean"]) <= 100 for row in rows)
    origin = good(run(scripts / "python", "-c", "import fewshot_bench as f; print(f.__file__)"))
    assert str(scripts.parent) in origin


@pytest.mark.slow
def test_the_plugin_passes_the_kit(scripts: Path) -> None:
    output = good(run(scripts / "fsbench", "check", "prototype", "-o", "weight=0.3"))
    assert "pass  check_prints_nothing" in output
    assert "failed" not in output
