"""A method of a file runs from its code in the store: edits, tracebacks, files beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

import fewshot_bench as fb
from fewshot_bench.api import own_methods
from fewshot_bench.api.registry import registry
from fewshot_bench.engines.base import Settings, StoreSnapshot
from fewshot_bench.engines.distributed import Job
from fewshot_bench.store.kept_methods import keep, keep_methods
from fewshot_bench.store.store import METHODS, Store
from fewshot_bench.utils.errors import PluginError
from tests.support.helpers import cells, fsbench

METHOD = """
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from {parts}.inner import check, LIST
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Beside:
    name: ClassVar[str] = "beside"
    author: str = ""

    def fit(self, task, backbone, ctx):
        ctx.note(scale=json.loads((Path(__file__).parent / "scale.json").read_text()))
        ctx.note(list=LIST)
        # What the author does while the run goes on.
        for file in ("beside.py", "{parts}/inner.py", "scale.json"):
            Path(self.author, file).write_text("3")
        check(ctx)
        return LinearClassifier(backbone.class_features(task))
"""
INNER = """
from pathlib import Path

LIST = (Path(__file__).parent / "words" / "list.txt").read_text()


def check(ctx):
    raise RuntimeError("on purpose")
"""
FEW = ("-d", "digits", "--shots", "1", "--limit", "20", "--backbone", "tiny", "--jobs", "1")


def write(folder: Path, parts: str = "own_parts") -> str:
    """Write a method with a package and files beside it; returns its name for `-m`."""
    files = {
        "beside.py": METHOD.replace("{parts}", parts),
        "scale.json": "5",
        "other.json": "6",
        f"{parts}/__init__.py": "",
        f"{parts}/inner.py": INNER,
        f"{parts}/words/list.txt": "a b",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return f"{folder}/beside.py:Beside"


class Failed(NamedTuple):
    """A store with two failed cells of a method, whose files changed while they ran."""

    store: Path
    author: Path


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Failed:
    store, author = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("author")
    done = fsbench(
        *("run", "-m", write(author), "-o", f"author={author}", *FEW, "--seeds", "1,2"),
        *("--store", store),
    )
    assert "2 cells failed" in done.err, done
    assert "other code" not in done.out + done.err
    return Failed(store, author)


def test_an_edit_during_a_run_changes_nothing(failed: Failed) -> None:
    records = list(Store(failed.store).records())
    assert (failed.author / "beside.py").read_text() == "3"
    for record in records:
        assert record.error is not None
        assert record.error["message"] == "on purpose"
    assert len({record.code_digest for record in records}) == 1


def test_tracebacks_name_the_files_of_the_author_as_they_were(failed: Failed) -> None:
    for record in Store(failed.store).records():
        assert record.error is not None
        trace = record.error["traceback"]
        assert f'"{failed.author}/own_parts/inner.py", line 8, in check' in trace
        assert f'"{failed.author}/beside.py", line 22, in fit' in trace
        assert 'raise RuntimeError("on purpose")' in trace
        assert str(failed.store) not in trace


def test_files_that_the_code_names_come_along(failed: Failed) -> None:
    (folder,) = (failed.store / METHODS).iterdir()
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("method.json", "beside.py", "scale.json"),
        *("own_parts/__init__.py", "own_parts/inner.py", "own_parts/words/list.txt"),
    }


def test_a_named_file_is_code_and_any_other_is_not(tmp_path: Path) -> None:
    name = write(tmp_path, "named_parts")
    first = registry().own_method(name).version
    (tmp_path / "other.json").write_text("7")
    assert registry().own_method(name).version == first
    (tmp_path / "named_parts" / "words" / "list.txt").write_text("a c")
    assert registry().own_method(name).version != first


def test_who_looks_for_files_without_a_name_is_warned(tmp_path: Path) -> None:
    text = "import os\nHERE = os.path.dirname(__file__)\n" + PLAIN.replace("from plain_part", "#")
    (tmp_path / "plain.py").write_text(text.replace("WEIGHT *", "10 *"), encoding="utf-8")
    name = f"{tmp_path}/plain.py:Plain"
    done = fsbench("run", "-m", name, *FEW, "--dry-run", "--store", tmp_path / "s")
    assert "plain.py of plain looks for files by __file__" in done.err, done


def test_what_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_methods, "LARGEST", 100)
    with pytest.raises(PluginError, match=r"more than 100 B.*hyper-parameter of type Path"):
        registry().own_method(write(tmp_path))


def test_the_store_checks_and_removes_code(tmp_path: Path) -> None:
    own = registry().own_method(write(tmp_path / "author", "checked_parts"))
    store = Store(tmp_path / "store")
    store.create()
    keep(store.path, own)
    folder = store.path / METHODS / own.facts.digest[:16]
    facts = json.loads((folder / "method.json").read_text())
    (folder / "method.json").write_text(json.dumps(facts | {"run": 0}))
    (folder / "scale.json").write_text("8")
    checked = fsbench("store", "verify", "--store", store.path)
    assert "scale.json is not the file that was written" in checked.out
    assert "code of a method without a record" in checked.out
    with pytest.raises(fb.FsbenchError, match="damaged"):
        fb.run(own.name, "digits", store=store.path, progress=False)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    gone = fsbench("store", "gc", "--yes", "--store", store.path)
    assert gone.code == 0, gone
    assert not [path for path in folder.rglob("*") if path.is_file()]


PLAIN = """
from dataclasses import dataclass
from typing import ClassVar

from plain_part import WEIGHT
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Plain:
    name: ClassVar[str] = "plain"

    def fit(self, task, backbone, ctx):
        return LinearClassifier(WEIGHT * backbone.class_features(task))
"""


def test_a_worker_of_another_machine_needs_the_store_alone(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(PLAIN, encoding="utf-8")
    (tmp_path / "plain_part.py").write_text("WEIGHT = 10.0\n", encoding="utf-8")
    store = Store(tmp_path / "store")
    store.create()
    (cell,) = cells(f"{tmp_path}/plain.py:Plain")
    keep_methods(store.path, [cell.method])
    job = Job.create(StoreSnapshot.of(store, [cell]), [cell], Settings())
    # There, neither this process nor the author's files are known.
    own_methods.forget()
    for file in ("plain.py", "plain_part.py"):
        (tmp_path / file).unlink()
    done = fsbench("worker", "--store", store.path, "--job", job.name)
    assert done.code == 0, done
    (record,) = store.records()
    assert (record.status, record.spec) == ("done", cell)
    assert record.environment["code"]["digest"].startswith(cell.method_version.partition("+")[2])
