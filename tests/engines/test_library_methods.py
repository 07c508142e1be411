"""Classes and objects in place of names: their source, and values that files cannot hold."""

from __future__ import annotations

import dataclasses
import importlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal
from unittest import mock

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.session_methods import reference
from fewshot_bench.runner.request import expand
from tests.support.helpers import PATIENCE, REPOSITORY

SCRIPT = '''
import dataclasses
import math
import multiprocessing
import re
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F

import fewshot_bench as fb

SCALE, NAMES = 100.0, {"a": [1, 2], "b": (3,)}
PATTERN = re.compile("[a-z]+")
half = lambda value: value / 2


def normalized(values):
    """Uses a module, a constant and another function."""
    assert PATTERN.match("x") and NAMES["b"] == (3,) and math.pi > 3
    return F.normalize(values, dim=-1) * half(2.0)


@dataclasses.dataclass(frozen=True)
class Base:
    weight: float = fb.hyper(0.5, "How much of the text counts.")


class Answer:
    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def logits(self, queries: fb.Images) -> torch.Tensor:
        return SCALE * queries.features @ self.matrix.T

    def tensors(self):
        return {"matrix": self.matrix}


@dataclasses.dataclass(frozen=True)
class Mixed(Base):
    """Class means of the shots beside the class names."""

    name: ClassVar[str] = "mixed"
    kind: "Literal['mean', 'none']" = fb.hyper("mean", "Whether shots count.")

    def fit(self, task: fb.Task, backbone: fb.Backbone, ctx: fb.RunContext) -> fb.Classifier:
        return Answer(normalized(self.weight * backbone.class_features(task)))


results = fb.run(
    [Mixed(weight=0.3), Mixed(weight=0.7), Mixed],
    "digits", shots=1, seeds=1, limit=40, jobs=1, store={store!r}, progress=False,
)
for record in results:
    code = record.environment["code"]
    print(record.status, record.spec.options["weight"], record.spec.options["kind"],
          record.metrics.get("top1"), code["registered"], len(code["digest"]))


def run_in_fork(store):
    """A fork of a process that has run cells runs more."""
    return fb.run("zero-shot", "letters", shots=1, seeds=1, limit=30, jobs=1, progress=False,
                  store=store)


with multiprocessing.get_context("fork").Pool(1) as pool:
    print(*pool.map(run_in_fork, [{store!r} + "-of-fork"]))
'''


def test_a_class_of_a_script_is_run_by_workers(tmp_path: Path) -> None:
    script, store = tmp_path / "script.py", tmp_path / "s"
    script.write_text(SCRIPT.replace("{store!r}", repr(str(store))), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stderr == ""
    lines = [f"done {weight} mean 90.0 False 64" for weight in (0.3, 0.7, 0.5)]
    assert done.stdout.splitlines() == [*lines, f"Results(1 record of '{store}-of-fork': 1 done)"]
    (file,) = store.glob("methods/*/Mixed.py")
    loaded = fb.load(store)
    assert {record.spec.method for record in loaded} == {"mixed"}
    versions = {record.spec.method_version for record in loaded}
    assert versions == {f"1+{file.parent.name[:8]}"}
    names = loaded.compare().to_frame().method
    assert set(names) == {f"mixed{options}" for options in ("", "[weight=0.3]", "[weight=0.7]")}
    cls = type("Mixed", (), {"__module__": "__main__", "fit": None})
    for asked in (cls, "mixed", f"{file}:Mixed"):
        assert len(loaded.where(method=asked)) == 3
    assert len(loaded.where(method="mixed[weight=0.3]", options={"weight": 0.3})) == 1
    assert len(loaded.where(options={"weight": [0.3, 0.7]})) == 2
    with pytest.raises(fb.UsageError, match=r"unknown value of weight '0\.4'"):
        loaded.where(options={"weight": 0.4})
    assert loaded.where(options={"weight": 0.3}).compare(cls).tables[0].baseline
    # The recorded source is the one that ran.
    assert "normalized(self.weight * backbone.class_features(task))" in file.read_text()
    # Where the script lies is not in it: stores travel.
    assert str(tmp_path) not in file.read_text(encoding="utf-8")


def test_a_class_inside_of_a_function(tmp_path: Path) -> None:
    number = 3

    @dataclasses.dataclass(frozen=True)
    class Inner:
        name: ClassVar[str] = "inner"

        def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
            """A variable of the function."""
            return number

    method = registry().method_class(reference(Inner, tmp_path))
    assert method().fit(None, None, None) == 3


def test_classes_of_plugins_and_files_go_by_their_names(tmp_path: Path) -> None:
    from fsbench_methods.clip_lora import ClipLora

    assert reference(ClipLora, tmp_path) == "clip-lora"
    assert not (tmp_path / "methods").exists()
    own_file = reference(InFile, tmp_path)
    assert own_file == f"{Path(__file__).resolve()}:InFile"


@dataclasses.dataclass(frozen=True)
class InFile:
    """A method in a module of its own."""

    name: ClassVar[str] = "in-file"

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        """Nothing."""


def test_objects_of_registered_methods_give_their_options(tmp_path: Path) -> None:
    from fsbench_methods.linear_probe import LinearProbe

    results = fb.run(
        [LinearProbe(search_steps=1), LinearProbe(search_steps=0), "zero-shot"],
        "digits",
        shots=1,
        seeds=1,
        limit=40,
        store=tmp_path,
        progress=False,
        jobs=1,
    )
    labels = [record.spec.label for record in results]
    assert labels == ["linear-probe[search_steps=1]", "linear-probe[search_steps=0]", "zero-shot"]
    assert all(record.environment["code"]["registered"] for record in results)


@dataclasses.dataclass(frozen=True)
class Typed:
    """A method with hyper-parameters of several types."""

    name: ClassVar[str] = "typed"
    weight: float = 0.5
    bound: float | None = None
    steps: int = 3
    kind: Literal["mean", "none"] = "mean"
    flag: bool = False

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        """Nothing."""


def variants(methods: Any, options: Any = ()) -> list[tuple[Any, Any]]:
    """Options and overrides of the cells planned by a call."""
    asked = {"shots": 1, "seeds": 1, "dry_run": True, "progress": False}
    with mock.patch("fewshot_bench.engines.library.run_matrix") as planned:
        planned.side_effect = lambda request, *rest: expand(request)
        with mock.patch("fewshot_bench.engines.library._results", lambda plan, folder: plan):
            plan: Any = fb.run(methods, "digits", options=options, **asked)
    return [(repr(cell.options), repr(cell.overrides)) for cell in plan.cells]


def test_one_configuration_is_one_cell_however_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    # The process that reads this file finds modules as a new Python does.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    name = reference(Typed, Path())
    for given in (
        {"weight": 1, "bound": 2, "flag": True},
        {"weight": np.float64(1), "steps": np.int64(4)},
    ):
        expected = variants(name, [f"{key}={value}" for key, value in given.items()])
        assert len(expected) == 1
        assert variants([Typed(**given)]) == expected  # type: ignore[arg-type]
        assert variants(Typed, given) == expected


def test_values_of_another_type_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"weight": True}, "weight=True is not float"),
        ({"weight": "x"}, "weight='x' is not float"),
        ({"weight": None}, "weight=None is not float"),
        ({"weight": float("nan")}, "weight=nan is not float"),
        ({"steps": True}, "steps=True is not int"),
        ({"steps": 1.5}, "steps=1.5 is not int"),
        ({"kind": "men"}, "kind='men' is not mean|none: did you mean 'mean'"),
        ({"kind": None}, "kind=None is not mean|none"),
        ({"bound": [1]}, "bound=[1] is not float | None"),
    ]
    for given, expected in cases:
        with pytest.raises(fb.UsageError, match=re.escape(expected)):
            variants([Typed(**given)])
    for given, expected in (cases[0], cases[5], cases[6]):
        with pytest.raises(fb.UsageError, match=re.escape(expected)):
            variants(Typed, given)


class Plain:
    """Not a dataclass."""

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        """Nothing."""


def test_an_object_that_is_no_dataclass_is_refused() -> None:
    with pytest.raises(fb.FsbenchError, match="dataclass"):
        variants([Plain()])


FILE = """
import dataclasses
from typing import ClassVar

from beside import VALUE


@dataclasses.dataclass(frozen=True)
class Edited:
    name: ClassVar[str] = "edited"
    {field}: int = VALUE

    def fit(self, task, backbone, ctx):
        raise RuntimeError(f"{{VALUE}} {{self}}")
"""


def test_a_file_that_is_edited_between_two_runs(tmp_path: Path) -> None:
    file, beside = tmp_path / "edited.py", tmp_path / "beside.py"

    def said() -> str:
        asked = {"shots": 1, "seeds": 1, "limit": 40, "jobs": 1, "progress": False}
        with pytest.warns(fb.FsbenchWarning, match="1 cell failed"):
            results = fb.run(f"{file}:Edited", "digits", store=tmp_path / "s", **asked)  # type: ignore[arg-type]
        (record,) = results.failed()
        return str(record.error and record.error["message"])

    file.write_text(FILE.format(field="size"), encoding="utf-8")
    beside.write_text("VALUE = 3\n", encoding="utf-8")
    assert said() == "3 Edited(size=3)"
    file.write_text(FILE.format(field="length"), encoding="utf-8")
    beside.write_text("VALUE = 44\n", encoding="utf-8")
    assert said() == "44 Edited(length=44)"


def test_a_class_whose_file_was_edited_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "imported_before.py"
    text = FILE.format(field="size").replace("from beside import VALUE", "VALUE = 3")
    file.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("imported_before")
    asked: dict[str, Any] = {"shots": 1, "seeds": 1, "dry_run": True, "store": tmp_path / "s"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fb.run([module.Edited, module.Edited(size=4)], "digits", progress=False, **asked)
    file.write_text(text.replace("VALUE = 3", "VALUE = 44"), encoding="utf-8")
    with pytest.warns(fb.FsbenchWarning, match="edited since .* imported_before: cells run with"):
        fb.run(module.Edited, "digits", progress=False, **asked)
    monkeypatch.delitem(sys.modules, "imported_before")


def test_a_file_that_runs_cells_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FILE.format(field="size").replace("from beside import VALUE", "VALUE = 3")
    call = "import fewshot_bench\n{}fewshot_bench.run(Edited, 'digits', dry_run=True)\n"
    file = tmp_path / "runs_at_import.py"
    file.write_text(text + call.format(""), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = "runs_at_import.py runs cells whenever it is imported, .*: put the call below if __n"
    with pytest.raises(fb.FsbenchError, match=message):
        importlib.import_module("runs_at_import")
    with pytest.raises(fb.FsbenchError, match=message):
        fb.run(f"{file}:Edited", "digits", dry_run=True, store=tmp_path / "s", progress=False)
    file.write_text(text + call.format("if __name__ == '__main__': "), encoding="utf-8")
    module = importlib.import_module("runs_at_import")
    fb.run(module.Edited, "digits", shots=1, dry_run=True, store=tmp_path / "s", progress=False)
    monkeypatch.delitem(sys.modules, "runs_at_import")
