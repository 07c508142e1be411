"""A separate package brings a method and a data set; failing and clashing plug-ins are named."""

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

from tests.helpers import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[1]
PLUGIN = REPOSITORY / "tests" / "third_party_plugin"


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
    assert own[1:-1] == ["-"] * 4
    assert "blobs" in good(run(fsbench, "list", "datasets"))
    chosen = ("--method", "prototype", "--dataset", "blobs", "--backbone", "tiny")
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
def test_the_plugin_passes_the_kit_from_the_command_line(scripts: Path) -> None:
    output = good(run(scripts / "fsbench", "check", "prototype", "-o", "weight=0.3"))
    assert "pass  check_prints_nothing" in output
    assert "failed" not in output


def add_plugin(folder: Path, name: str, source: str) -> None:
    """Install a distribution with one entry point on the path, as an installer would."""
    module = f"fsbench_{name}"
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: fsbench-{name}\nVersion: 1.0\n", encoding="utf-8"
    )
    points = f"[fewshot_bench]\n{name} = {module}\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


def fsbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this environment's command line with an additional folder on the path."""
    code = "from fewshot_bench.cli.main import main; main()"
    return run(sys.executable, "-c", code, *arguments, env={"PYTHONPATH": str(folder)})


def test_a_plugin_that_fails_to_import_is_named_and_harms_nothing(tmp_path: Path) -> None:
    add_plugin(tmp_path, "broken", "import a_module_that_does_not_exist\n")
    listing = " ".join(good(fsbench(tmp_path, "list", "plugins")).split())
    assert "fsbench-broken" in listing
    assert "ModuleNotFoundError" in listing
    assert "zero-shot" in good(fsbench(tmp_path, "list", "methods"))


REGISTERS = """
from fewshot_bench import hookimpl

@hookimpl
def register_methods(register):
    register("{name}", "nowhere:Nothing")
"""


def test_two_plugins_with_one_name_are_an_error_with_both_origins(tmp_path: Path) -> None:
    add_plugin(tmp_path, "one", REGISTERS.format(name="twice"))
    add_plugin(tmp_path, "two", REGISTERS.format(name="twice"))
    listed = fsbench(tmp_path, "list", "methods")
    assert "zero-shot" in good(listed)
    assert "twice" in listed.stderr
    result = fsbench(tmp_path, "show", "twice")
    assert result.returncode == 2
    assert "fsbench_one.py:6" in result.stderr
    assert "fsbench_two.py:6" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_method_that_cannot_be_loaded_is_an_error_that_names_its_origin(tmp_path: Path) -> None:
    add_plugin(tmp_path, "one", REGISTERS.format(name="lost"))
    result = fsbench(tmp_path, "check", "lost")
    assert result.returncode == 2
    assert "fsbench_one.py:6" in result.stderr
    assert "nowhere" in result.stderr


def test_check_refuses_an_unknown_method_with_a_suggestion(tmp_path: Path) -> None:
    result = fsbench(tmp_path, "check", "zero-shoot")
    assert result.returncode == 2
    assert "did you mean 'zero-shot'" in result.stderr


def test_check_prints_one_line_per_rule_and_exits_with_1(tmp_path: Path) -> None:
    source = REGISTERS.format(name="loud").replace("nowhere:Nothing", "fsbench_loud:Loud") + LOUD
    add_plugin(tmp_path, "loud", source)
    result = fsbench(tmp_path, "check", "loud")
    assert result.returncode == 1, result.stdout + result.stderr
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert failed[0].startswith("FAIL  check_prints_nothing: wrote 'hello")


LOUD = """
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Loud:
    name: ClassVar[str] = "loud"

    def fit(self, task, backbone, ctx):
        print("hello")
        return Scores(backbone.class_features(task))

@dataclass(frozen=True)
class Scores:
    weights: object

    def logits(self, queries):
        return 100 * queries.features @ self.weights.T

    def tensors(self):
        return {"weights": self.weights}
"""
