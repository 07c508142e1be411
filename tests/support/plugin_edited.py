"""A plug-in package that tests write and edit: zero-shot logits scaled by a helper module."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.helpers import Result, command

PACKAGE = "fsbench_edited"
TIMEOUT = 300

METHOD = '''
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fewshot_bench import Backbone, Images, RunContext, Task
HELPER


@dataclass(frozen=True)
class Scaled:
    """Zero-shot logits."""

    weights: Tensor

    def logits(self, queries: Images) -> Tensor:
        return SCALE * queries.features @ self.weights.T

    def tensors(self) -> Mapping[str, Tensor]:
        return {"weights": self.weights}


@dataclass(frozen=True)
class Edited:
    """A method that its author is editing."""

    name: ClassVar[str] = "edited"
    version: ClassVar[str] = "1"
    trains: ClassVar[bool] = False
    strength: float = 1.0

    def fit(self, task: Task, backbone: Backbone, ctx: RunContext) -> Scaled:
        return Scaled(self.strength * backbone.class_features(task))
'''
PLUGIN = f'''
from fewshot_bench import hookimpl


@hookimpl
def register_methods(register):
    register("edited", "{PACKAGE}.method:Edited")
'''


def method_source(helper: str, version: str = "1") -> str:
    """Source of the method's module; helper: the line that defines SCALE."""
    return METHOD.replace("HELPER", helper).replace('str] = "1"', f'str] = "{version}"')


def write_package(folder: Path, scale: float = 100.0, version: str = "1") -> None:
    """Write the plug-in as an installer would; call again to edit it."""
    root = folder / PACKAGE
    root.mkdir(parents=True, exist_ok=True)
    files = {
        "__init__.py": PLUGIN,
        "helper.py": f"SCALE = {scale}\n",
        "method.py": method_source(f"from {PACKAGE}.helper import SCALE", version),
    }
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")
    info = folder / f"{PACKAGE}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    about = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    points = f"[fewshot_bench]\n{PACKAGE} = {PACKAGE}\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")


def ran(*arguments: object, plugins: Path | None = None, cwd: Path | None = None) -> Result:
    """Run the command line in a subprocess, which imports plug-ins afresh."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if plugins is not None:
        paths = [str(plugins), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment,
        cwd=cwd,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def run_flags(store: Path, seeds: str = "1", **more: object) -> list[object]:
    """Arguments of a short `fsbench run` of the method."""
    words: list[object] = ["--method", "edited", "--dataset", "digits", "--shots", "1"]
    words += ["--seeds", seeds, "--limit", 40, "--backbone", "tiny", "--store", store]
    return words + [word for name, value in more.items() for word in (f"--{name}", value)]
