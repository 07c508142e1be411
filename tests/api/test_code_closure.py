"""The digest of a method's source changes with edits of its package, and with nothing else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from fewshot_bench.api.code_closure import CHANGED, running_digest, source_digest


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class in a package with two more modules."""
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


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, str]) -> type:
    """Write these files and import the class `Method` of a module among them."""
    for file, text in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    top = name.partition(".")[0]
    for known in [known for known in sys.modules if known.partition(".")[0] == top]:
        monkeypatch.delitem(sys.modules, known)
    found: type = importlib.import_module(name).Method
    return found


CLASS = "class Method:\n    pass\n"


@pytest.mark.parametrize(
    ("name", "files", "counted", "ignored"),
    [
        # Another distribution's part of a namespace package does not belong to the method.
        (
            "digested_ns.mine.method",
            {"digested_ns/mine/__init__.py": "", "digested_ns/mine/method.py": CLASS},
            "digested_ns/mine/new.py",
            "digested_ns/other/new.py",
        ),
        # A package without `__init__.py`.
        (
            "digested_bare.method",
            {"digested_bare/method.py": CLASS, "digested_bare/helper.py": ""},
            "digested_bare/helper.py",
            "elsewhere/helper.py",
        ),
        # A module that imports another one, which imports a third.
        (
            "digested_one",
            {
                "digested_one.py": f"def f():\n    import digested_two\n{CLASS}",
                "digested_two.py": "from digested_three.part import X\n",
                "digested_three/__init__.py": "",
                "digested_three/part.py": "X = 1\n",
            },
            "digested_three/part.py",
            "digested_four.py",
        ),
        # A folder without `__init__.py` beside a module that imports from it.
        (
            "digested_eight",
            {
                "digested_eight.py": f"from digested_nine.core import answer\n{CLASS}",
                "digested_nine/core.py": "answer = 1\n",
            },
            "digested_nine/core.py",
            "digested_ten/core.py",
        ),
        # The import finds an installed package, not the folder of that name.
        (
            "digested_eleven",
            {"digested_eleven.py": f"import hypothesis\n{CLASS}", "hypothesis/core.py": ""},
            "digested_eleven.py",
            "hypothesis/core.py",
        ),
        # In a folder of installed packages, neighboring modules do not belong to a module.
        (
            "digested_five",
            {
                "digested_five.py": f"import digested_six\n{CLASS}",
                "digested_six.py": "",
                "any-1.dist-info/METADATA": "",
            },
            "digested_five.py",
            "digested_six.py",
        ),
        (
            "digested_seven",
            {"digested_seven/__init__.py": CLASS},
            "digested_seven/inner/native.abi3.so",
            "digested_seven/__pycache__/kept.py",
        ),
    ],
)
def test_which_files_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    files: dict[str, str],
    counted: str,
    ignored: str,
) -> None:
    method = module(tmp_path, monkeypatch, name, files)
    before = source_digest(method)
    assert len(before) == 64
    for file, same in ((ignored, True), (counted, False)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(f"{CLASS}# edited\n")
        assert (source_digest(method) == before) is same


def test_the_digest_of_what_runs_is_that_of_what_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = package(tmp_path, monkeypatch)
    imported = running_digest(method)
    assert imported == source_digest(method)
    (tmp_path / "digested" / "helper.py").write_text("SCALE = 2\n")
    # The helper is not yet imported: until then, all running code is the older version.
    assert running_digest(method) == imported
    assert source_digest(method) != imported
    importlib.import_module("digested.helper")
    assert running_digest(method) == CHANGED
