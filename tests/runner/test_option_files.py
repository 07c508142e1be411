"""Hyper-parameters that are files: their content is a part of the cell, wherever they lie."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import fewshot_bench as fb
from fewshot_bench.api.option_files import FILES
from fewshot_bench.api.spec import method_label
from fewshot_bench.store.store import Store
from tests.support.helpers import Result, fsbench
from tests.support.plugin_edited import PACKAGE, write_package

SOURCE = """
import json
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench import hyper
from fewshot_bench.training import LinearClassifier


@dataclass(frozen=True)
class Scaled:
    name = "scaled"
    texts: Path = hyper(Path("texts.json"), "how much to scale")

    def fit(self, task, backbone, ctx) -> LinearClassifier:
        assert self.texts.suffix == ".json"
        scale = json.loads(self.texts.read_text())["scale"]
        return LinearClassifier(scale * backbone.class_features(task))
"""


def write_texts(path: Path, scale: float) -> Path:
    """A file that the method reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"scale": scale}))
    return path


def write_file(folder: Path) -> str:
    """The method in a file, with its default beside it."""
    (folder / "scaled.py").write_text(SOURCE)
    return f"{folder / 'scaled.py'}:Scaled"


def write_in_package(folder: Path) -> str:
    """The method in the package of a plug-in."""
    write_package(folder)
    source = SOURCE.replace('"scaled"', '"edited"').replace("Scaled", "Edited")
    (folder / PACKAGE / "method.py").write_text(source)
    return "edited"


FLAGS = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--backbone", "tiny")


def losses(store: Path) -> dict[str, float]:
    """The loss of each cell by its method with its files."""
    records = Store(store).records()
    return {method_label(r.spec.method, r.spec.variant): r.metrics["nll"] for r in records}


@pytest.mark.parametrize("kind", ["file", "package"])
def test_an_edited_file_is_another_cell(
    tmp_path: Path, fresh: Callable[..., Result], kind: str
) -> None:
    store = tmp_path / "store"
    method = write_file(tmp_path) if kind == "file" else write_in_package(tmp_path)
    beside = tmp_path if kind == "file" else tmp_path / PACKAGE
    texts = write_texts(beside / "texts.json", 3.0)
    run = ("run", "-m", method, *FLAGS, "--store", store)
    assert fresh(*run).code == 0
    (before,) = losses(store).values()
    write_texts(texts, 30.0)
    edited = fresh(*run)
    assert "1 cell: 0 done already, 1 to run" in edited.out
    assert "stale" not in edited.out
    assert len(set(losses(store).values()) - {before}) == 1

    # Its content alone counts: a copy of another name is the same cell.
    copy = write_texts(tmp_path / "elsewhere" / "copy.json", 3.0)
    again = fresh(*run, "-o", f"texts={copy},{texts}")
    assert "2 cells: 2 done already, 0 to run" in again.out
    table = fresh("compare", "--store", store).out
    assert table.count("[texts=texts.json@") == 2


def test_files_go_with_their_records(tmp_path: Path, fresh: Callable[..., Result]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    method, texts = write_file(tmp_path), write_texts(tmp_path / "other.json", 3.0)
    run = ("run", "-m", method, *FLAGS, "-o", f"texts={texts}")
    assert fresh(*run, "--store", first, "--keep-models").code == 0
    assert fresh("store", "merge", first, "--store", second).code == 0
    shutil.rmtree(first)
    texts.unlink()
    (record,) = Store(second).records()
    text = record.spec.options["texts"]
    assert record.spec.label == f"scaled[texts=other.json@{text[-16:-12]}]"
    assert "scaled[texts=other.json] " in fresh("compare", "--store", second).out
    assert "same result" in fresh("rerun", Store(second).file(record.spec.key())).out
    (folder,) = (second / "models").iterdir()
    assert (folder / FILES / text[-16:] / "other.json").is_file()
    # What a signature's command states.
    again = fresh(*run[:-1], f"texts={text}", "--store", second)
    assert "1 cell: 1 done already, 0 to run" in again.out

    assert fresh("store", "verify", "--store", second).code == 0
    (kept,) = (second / FILES).glob("*/*")
    os.utime(kept, (0, 0))
    fresh("store", "gc", "--yes", "--store", second)
    kept.write_text("{}")
    assert "it is not the file that was copied" in fresh("store", "verify", "--store", second).out
    fresh("store", "rm", "--yes", "--method", "scaled", "--store", second)
    os.utime(kept, (0, 0))
    fresh("store", "gc", "--yes", "--store", second)
    assert not kept.exists()


def test_a_default_file_is_no_override_and_an_edited_one_is_said(
    tmp_path: Path, fresh: Callable[..., Result]
) -> None:
    store, method = tmp_path / "store", write_file(tmp_path)
    texts = write_texts(tmp_path / "texts.json", 3.0)
    run = ("run", "-m", method, *FLAGS, "--store", store)
    # Also if the same content is given by name.
    copy = write_texts(tmp_path / "elsewhere" / "copy.json", 3.0)
    for own in (run, (*run, "-o", f"texts={copy}")):
        assert fresh(*own).code == 0
    (record,) = Store(store).records()
    assert (record.spec.label, record.spec.overrides) == ("scaled", {})
    plain = fresh("compare", "--store", store, "-m", "scaled[]")
    assert plain.code == 0, plain.err
    assert "scaled[" not in plain.out
    assert "overridden" not in fresh("audit", "--store", store).out

    write_texts(texts, 30.0)
    other = write_texts(tmp_path / "other.json", 7.0)
    assert fresh(*run, "-o", f"texts={texts},{other}").code == 0
    specs = [record.spec for record in Store(store).records()]
    assert sorted(bool(spec.overrides) for spec in specs) == [False, False, True]
    both = fresh("compare", "--store", store, "-m", "scaled[]")
    assert both.out.count("scaled[texts=texts.json@") == 2
    said = "texts.json, the default of scaled's option texts, changed between runs"
    assert said in " ".join(both.out.split())
    digest = record.spec.options["texts"][-16:-12]
    one = fresh("compare", "--store", store, "-m", f"scaled[texts=texts.json@{digest}]")
    assert one.code == 0, one.err
    assert f"{record.metrics['top1']:.2f}" in one.out
    assert said not in " ".join(one.out.split())
    # The signature names the content of the first file.
    audit = fresh(
        "audit", "--store", store, "-m", f"scaled[texts=texts.json@{digest}]", "--format", "json"
    )
    assert record.spec.options["texts"] in unquote(json.loads(audit.out)["signature"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("absent.json", "there is no file"),
        ("text.json", "did you mean 'texts.json'"),
        (".", "is a folder"),
        ("x.json@sha256:0123456789abcdef", "is in no store that was looked in"),
    ],
)
def test_what_is_no_file_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts.json", 1.0)
    method = write_file(tmp_path)
    refused = fsbench("run", "-m", method, *FLAGS, "-o", f"texts={value}", "--store", "s")
    assert refused.code in (1, 2)
    assert reason in refused.err
    assert not Path("s").exists()


def make_class() -> type:
    """A class of a session, which is in no file that workers could import."""

    class Session:
        name = "session"
        texts: Path = fb.hyper(Path("texts.json"), "how much to scale")

        def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
            from fewshot_bench.training import LinearClassifier

            scale = json.loads(self.texts.read_text())["scale"]
            return LinearClassifier(scale * backbone.class_features(task))

    return dataclasses.dataclass(frozen=True)(Session)


def test_files_of_a_class_of_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = write_texts(tmp_path / "texts.json", 3.0)
    asked: Any = {"shots": 1, "seeds": 1, "limit": 20, "backbone": "tiny", "progress": False}
    cls = make_class()
    fb.run(cls, "digits", store="s", **asked)
    (before,) = losses(Path("s")).values()
    write_texts(texts, 30.0)
    other = write_texts(tmp_path / "other.json", 3.0)
    fb.run([cls, cls(texts=other)], "digits", store="s", **asked)
    assert len(losses(Path("s"))) == 2
    assert set(losses(Path("s")).values()) > {before}
