"""The digest of a method's source changes with any edit of its package, and with nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fewshot_bench.method_code import source_digest


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in a package of two files."""
    root = folder / "digested"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "helper.py").write_text("SCALE = 1\n")
    (root / "method.py").write_text("class Method:\n    pass\n")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "digested"]:
        monkeypatch.delitem(sys.modules, name)
    found: type = importlib.import_module("digested.method").Method
    return found


def test_an_edit_of_any_file_of_the_package_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = package(tmp_path, monkeypatch)
    before = source_digest(method)
    assert source_digest(method) == before
    (tmp_path / "digested" / "notes.txt").write_text("no code")
    assert source_digest(method) == before
    (tmp_path / "digested" / "helper.py").write_text("SCALE = 2\n")
    assert source_digest(method) not in ("", before)


def test_a_class_without_a_file_has_no_digest() -> None:
    assert source_digest(type("Typed", (), {"__module__": "nowhere_at_all"})) == ""
