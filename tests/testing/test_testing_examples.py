"""Methods of the docs, and two of the tests, pass the kit in fp32 and bf16, and run from a file."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from fewshot_bench.testing import all_checks, check_method, quick
from tests.support.helpers import REPOSITORY, fsbench

PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
FILES = {"PrefixTuning": "prefix_tuning.py", "ShiftTuning": "shift_tuning.py"}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(
    r"^class (\w+)(?:\(\w+\))?:\n(?: .*\n|\n)*?"
    r"    name(?:: ClassVar| = \"\w+\"\n    \w+: \w+ = hyper)",
    re.MULTILINE,
)
# Few steps: the rules concern conduct.
SHORTER = {"ShiftTuning": {"steps": 4}, "ClassVectors": {"epochs": 5}}


def examples() -> dict[str, str]:
    """The source of every method, by the name of its class: those that a page shows as a whole."""
    found = {
        name: (REPOSITORY / "tests" / "support" / file).read_text(encoding="utf-8")
        for name, file in FILES.items()
    }
    for page in PAGES:
        for source in BLOCK.findall(page.read_text(encoding="utf-8")):
            name = NAME.search(source)
            if name and not re.search(r"\.\.\.( |$)", source, re.MULTILINE):
                found[name[1]] = source
    return found


def definitions(source: str) -> str:
    """Imports, classes and functions: the page on Python runs what it defines."""
    kept = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    parts = [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, kept)]
    return "\n\n".join(["import fewshot_bench as fb", *parts])


def test_the_docs_show_methods() -> None:
    shown = {"ApartPrompts", "ClassVectors", "DeepTokens", "Prototype"}
    assert set(examples()) >= {*shown, *FILES}


@pytest.mark.parametrize("name", sorted(examples()))
def test_a_method_passes_the_kit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "check_fits_and_predicts_in_bf16" in {check.name for check in all_checks()}
    module = f"fsbench_shown_{name.lower()}"
    (tmp_path / f"{module}.py").write_text(definitions(examples()[name]), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, module, raising=False)
    method: Any = getattr(importlib.import_module(module), name)()
    check_method(dataclasses.replace(quick(method), **SHORTER.get(name, {})))


def test_the_method_on_pixels_runs_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "shift.py"
    file.write_text(examples()["ShiftTuning"], encoding="utf-8")
    few = ("-d", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1")
    to = ("--store", tmp_path / "store")
    ran = fsbench("run", "-m", f"{file}:ShiftTuning", *few, "--precision", "bf16", *to)
    assert ran.code == 0, ran
    (record,) = Store(to[1]).records()
    assert record.status == "done"
    assert record.spec.precision == "bf16"
