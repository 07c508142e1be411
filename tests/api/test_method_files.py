"""A method in a file of its own: its name, its record, and errors in it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.analysis.filters import select
from fewshot_bench.analysis.signature import parse, signature_of
from fewshot_bench.analysis.table.build import build
from fewshot_bench.api import method_code
from fewshot_bench.api.code_closure import source_digest
from fewshot_bench.api.method_code import load
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, PluginError, UsageError
from fewshot_bench.utils.text import split_names
from tests.compare_records import make
from tests.helpers import fsbench
from tests.plugin_edited import method_source


def write(path: Path, text: str | None = None) -> Path:
    """Write a file with a method, or with this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(method_source("SCALE = 100.0") if text is None else text, encoding="utf-8")
    return path


def planned(*methods: str, options: tuple[str, ...] = ()) -> list[str]:
    """The labels of the cells of a request."""
    request = Request(methods, ("digits",), shots=(1,), seeds=(1,), options=options)
    return [cell.label for cell in expand(request).cells]


def test_every_spelling_of_a_file_is_one_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "mine" / "lora.py")
    (tmp_path / "link.py").symlink_to(file)
    monkeypatch.chdir(file.parent)
    spellings = ("lora.py", "./lora.py", "../mine/lora.py", str(file), "../link.py")
    assert planned(*(f"{path}:Edited" for path in spellings)) == [f"{file.resolve()}:Edited"]


def test_two_files_with_one_class_name_are_two_methods(tmp_path: Path) -> None:
    names = [f"{write(tmp_path / folder / 'lora.py')}:Edited" for folder in ("a", "b")]
    assert len(planned(*names)) == 2
    first, second = (registry().method_class(name) for name in names)
    assert first is not second
    table = build([make(name) for name in names])
    assert [row.label for row in table.rows] == ["a/lora.py:Edited", "b/lora.py:Edited"]
    assert [row.label for row in build([make(names[0])]).rows] == ["lora.py:Edited"]
    records = [make(name) for name in names]
    assert select(records, {"method": "b/lora.py:Edited"}) == records[1:]


@pytest.mark.parametrize("folder", ["with, comma", "with: colon", "a=b", "x.py:Y", "é [1]@2"])
def test_names_that_need_care(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{write(tmp_path / folder / 'my lora.py').resolve()}:Edited"
    other = f"{write(tmp_path / 'lora.py').resolve()}:Edited"
    assert split_names(f"{other},{name} , coop") == (other, name, "coop")
    options = (f"{name}.strength=2,3",)
    assert planned(name, other, options=options) == [
        f"{name}[strength=2.0]",
        f"{name}[strength=3.0]",
        other,
    ]
    line = signature_of([make(name)])
    assert parse(line)[0].methods[0].method == name


# Paths of real systems contain no lone surrogates.
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(PATHS, st.sampled_from(["A", "Bé_1"]))
def test_any_path_is_read_back(path: str, cls: str) -> None:
    name = method_code.canonical(f"/{path}.py:{cls}")
    assert method_code.canonical(name) == name
    assert method_code.parts(name) is not None
    assert parse(signature_of([make(name)]))[0].methods[0].method == name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lore.py:Edited", None, "no file.*did you mean 'lora.py'"),
        ("lora.py:Edit", None, "no class 'Edit': did you mean 'Edited'"),
        ("lora.py", None, "names a file and no class in it: expected .*lora.py:Edited"),
        ("lora.py:", None, "expected .*lora.py:Edited"),
        ("lora.py:Mapping", None, "no method"),
        ("lora.py:SCALE", None, "'SCALE' in .*no method .no class.: expected"),
        ("lora.py:Edited", "x = 1\nprint(y)\n", r"NameError.*lora.py:2 in <module>"),
        ("lora.py:Edited", "def f(:\n", r"SyntaxError.*line 1"),
        ("lora.py:Edited", "import no_such_module\n", r"No module named.*lora.py:1"),
        ("lora.py:Edited", "raise SystemExit(3)\n", r"SystemExit: 3.*lora.py:1"),
        ("nowhere/lora.py:Edited", None, "is no folder"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    write(tmp_path / "lora.py", text)
    with pytest.raises((UsageError, PluginError), match=message):
        registry().method_class(f"{tmp_path}/{name}")
    result = fsbench("check", f"{tmp_path}/{name}")
    assert result.code == 2
    assert "Traceback" not in result.err


def test_modules_beside_the_file_are_its_own(tmp_path: Path) -> None:
    text = method_source("from beside_of_it import SCALE")
    file = write(tmp_path / "a" / "lora.py", text)
    write(tmp_path / "a" / "beside_of_it.py", "SCALE = 100.0\n")
    assert registry().method_class(f"{file}:Edited").__name__ == "Edited"
    before = registry().code(f"{file}:Edited")["digest"]
    # A module of that name is already loaded: the choice must not depend on the order.
    other = write(tmp_path / "b" / "lora.py", text)
    write(tmp_path / "b" / "beside_of_it.py", "SCALE = 1.0\n")
    with pytest.raises(FsbenchError, match=r"beside_of_it.*another name"):
        load(f"{other}:Edited")
    installed = write(tmp_path / "c" / "lora.py", method_source("import json\nSCALE = 1.0"))
    write(tmp_path / "c" / "json.py", "")
    with pytest.raises(FsbenchError, match=r"'json'.*another name"):
        load(f"{installed}:Edited")
    assert before


def test_a_folder_without_init_beside_the_file_is_its_own(tmp_path: Path) -> None:
    text = method_source("from bare_beside_it.core import SCALE")
    file = write(tmp_path / "a" / "lora.py", text)
    write(tmp_path / "a" / "bare_beside_it" / "core.py", "SCALE = 100.0\n")
    before = source_digest(registry().method_class(f"{file}:Edited"))
    write(tmp_path / "a" / "bare_beside_it" / "core.py", "SCALE = 10.0\n")
    assert source_digest(registry().method_class(f"{file}:Edited")) != before
    other = write(tmp_path / "b" / "lora.py", text)
    write(tmp_path / "b" / "bare_beside_it" / "core.py", "SCALE = 1.0\n")
    with pytest.raises(FsbenchError, match=r"bare_beside_it.*another name"):
        load(f"{other}:Edited")


def test_a_file_is_run_compared_and_run_again_after_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, store = write(tmp_path / "my methods" / "lora.py"), tmp_path / "store"
    words = ["--dataset", "digits", "--shots", "1", "--seeds", "1", "--limit", "40"]
    words += ["--backbone", "tiny", "--store", str(store)]
    monkeypatch.chdir(file.parent)
    first = fsbench("run", "-m", "lora.py:Edited", *words)
    assert first.code == 0, first.err
    (record,) = Store(store).records()
    assert record.spec.method == f"{file.resolve()}:Edited"
    assert record.environment["code"]["digest"]
    assert not (file.parent / "__pycache__").exists()
    monkeypatch.chdir(os.sep)
    again = fsbench("run", "-m", f"{file}:Edited", *words)
    assert "1 done already, 0 to run" in again.out
    table = fsbench("compare", "-m", "lora.py:Edited", "--store", store, "--format", "csv")
    assert "lora.py:Edited" in table.out
    write(file, method_source("SCALE = 3.0"))
    edited = fsbench("run", "-m", f"{file}:Edited", *words)
    assert "1 cell was computed with other code of" in edited.out
    (other,) = Store(store).records()
    assert other.code_digest != record.code_digest
    assert dataclasses.replace(other.spec) == record.spec
