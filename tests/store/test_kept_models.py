"""`run --keep-models`: a model beside every record, and how store commands handle it."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import model_folder, model_of
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.support.helpers import REPOSITORY, cells, fsbench, image_folder, save_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("photos"), train=4, test=20)


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made") / "store"
    asked = {"shots": 1, "seeds": 1, "backbone": "tiny", "progress": False}
    methods = ["zero-shot", "linear-probe"]
    fb.run(methods, f"folder:{photos}", store=store, keep_models=True, **asked)  # type: ignore[arg-type]
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def record_of(store: Path, method: str = "linear-probe") -> fb.Record:
    return next(r for r in fb.load(store) if r.spec.method == method)


def fitted_lists(photos: Path) -> str:
    """Digest of the images that a cell was fitted and selected on."""
    (spec,) = cells("zero-shot", datasets=(f"folder:{photos}",), limit=None)
    return Session().examiner.cell(spec).picks


def aged(folder: Path) -> None:
    for path in [*folder.iterdir(), folder]:
        os.utime(path, (time.time() - 7200,) * 2)


@pytest.mark.parametrize("method", ["zero-shot", "linear-probe"])
def test_a_model_answers_as_its_cell_did(made: Path, photos: Path, method: str) -> None:
    results = fb.load(made)
    record = record_of(made, method)
    answers = results.predictions(record)
    model = results.model(record)
    found = model.predict([photos / id for id in answers.ids])
    assert list(found["class"]) == [answers.classnames[place] for place in answers.predicted]
    assert np.allclose(found.probability, answers.confidences, atol=1e-6)
    assert model.config.data["images"] == [1, 1]
    assert model.config.data["split"] == fitted_lists(photos)
    stated = record.footprint["model"]
    folder = model_folder(made, record.spec.key())
    assert stated["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_model_of_other_classes_than_its_record_says_so(photos: Path, tmp_path: Path) -> None:
    """The cell of the new classes: its model is that of the fit, on the base classes."""
    store, four = tmp_path / "store", image_folder(tmp_path / "four", train=2, test=2)
    for path in sorted(four.glob("*/*/*")):
        save_image(path.parent.with_name(f"other {path.parent.name}") / path.name, len(str(path)))
    asked: dict[str, Any] = {"shots": 1, "seeds": 1, "backbone": "tiny", "progress": False}
    name = f"folder:{four}"
    results = fb.run("zero-shot", name, classes="base,new", store=store, keep_models=True, **asked)
    base, new = (results.where(classes=half).records()[0] for half in ("base", "new"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert results.model(base).classnames == ("cat", "dog")
    with pytest.warns(UserWarning, match=r"classes of its fit \('cat', 'dog'\), not for those"):
        model = results.model(new)
    assert "not for those of the record" in (model.path / "README.md").read_text()


def test_nothing_else_of_the_record_changes(photos: Path, tmp_path: Path) -> None:
    spec = cells("linear-probe", datasets=(f"folder:{photos}",), limit=None)[0]
    plain = run_one(spec, Session()).record
    kept = run_one(spec, Session(models=tmp_path)).record
    assert kept.metrics == plain.metrics
    assert kept.footprint["work"] == plain.footprint["work"]
    assert set(kept.footprint) - set(plain.footprint) == {"model"}
    assert kept.incidents == plain.incidents


def test_a_record_without_a_model_says_how_to_have_one(store: Path) -> None:
    record = record_of(store)
    shutil.rmtree(model_folder(store, record.spec.key()))
    with pytest.raises(fb.FsbenchError, match="is not there; expected a folder"):
        fb.load(store).model(record)
    other = record_of(store, "zero-shot")
    shutil.copytree(model_folder(store, other.spec.key()), model_folder(store, record.spec.key()))
    with pytest.raises(
        fb.FsbenchError, match=r"not the one of the record; .*--keep-models --force"
    ):
        fb.load(store).model(record)
    verified = fsbench("store", "verify", "--store", store)
    assert verified.code == 1
    assert "is not the one of the record" in verified.out
    assert "found: 1 model\n" in verified.out


def test_verify_finds_damaged_tensors_and_gc_what_no_record_states(store: Path) -> None:
    assert "all is well" in fsbench("store", "verify", "--store", store).out
    record = record_of(store)
    folder = model_folder(store, record.spec.key())
    stray = model_folder(store, "ab" * 32)
    shutil.copytree(folder, stray)
    assert "model of no record" not in fsbench("store", "gc", "--yes", "--store", store).out
    aged(stray)
    assert "a model without a record" in fsbench("store", "verify", "--store", store).out
    assert "3 model of no record" in fsbench("store", "gc", "--yes", "--store", store).out
    assert not stray.exists()
    assert folder.exists()
    (folder / "model.safetensors").write_bytes(b"damaged")
    verified = fsbench("store", "verify", "--store", store)
    assert verified.code == 1
    assert "is damaged: its digest is not the one in config.json" in verified.out


def test_merge_copies_models_and_rm_removes_them(store: Path, tmp_path: Path) -> None:
    to = tmp_path / "merged"
    assert fsbench("store", "merge", store, "--store", to).code == 0
    record = record_of(to)
    assert fb.load(to).model(record).config == fb.load(store).model(record).config
    assert "all is well" in fsbench("store", "verify", "--store", to).out
    assert fsbench("store", "rm", record.spec.key(), "--store", to, "--yes").code == 0
    assert not model_folder(to, record.spec.key()).exists()
    assert model_folder(to, record_of(to, "zero-shot").spec.key()).exists()


def test_a_kill_between_the_record_and_its_model_loses_no_model(
    store: Path, tmp_path: Path
) -> None:
    record = record_of(store)
    folder = model_folder(store, record.spec.key())
    following = folder.with_name(f"{folder.name}.next")
    folder.rename(following)
    aged(following)
    assert model_of(store, record) == following
    assert fb.load(store).model(record).config.method == record.spec.method
    checked = fsbench("store", "verify", "--store", store)
    assert (checked.code, "next" in checked.out) == (0, False), checked
    assert "next" not in fsbench("store", "gc", "--yes", "--store", store).out
    merged = fsbench("store", "merge", store, "--store", tmp_path / "merged")
    assert merged.code == 0, merged.err
    assert model_of(tmp_path / "merged", record).name == folder.name


def test_a_next_model_that_a_killed_process_left_is_not_used(store: Path) -> None:
    record = record_of(store)
    folder = model_folder(store, record.spec.key())
    following = folder.with_name(f"{folder.name}.next")
    shutil.copytree(folder, following)
    (following / "config.json").unlink()
    aged(following)
    assert model_of(store, record) == folder
    assert str(following) in fsbench("store", "gc", "--yes", "--store", store).out
    assert not following.exists()


def test_the_size_is_said_before_and_after(photos: Path, tmp_path: Path) -> None:
    run = ("run", "-m", "zero-shot", "-d", f"folder:{photos}", "--shots", 1, "--seeds", 1)
    run = (*run, "--backbone", "tiny", "--store", tmp_path / "store", "--keep-models")
    first = fsbench(*run)
    assert first.code == 0, first.err
    said = first.out + first.err
    assert "models: no model of zero-shot is in the store yet, so that their size is not kn" in said
    assert "models: 1 kept, " in said
    again = fsbench(*run, "--force")
    assert "models: up to " in again.out + again.err


@dataclass(frozen=True)
class Unkept:
    """Zero-shot that refuses."""

    name: ClassVar[str] = "unkept"
    cannot_be_kept: ClassVar[str] = "it holds a million neighbours"

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        return Shared(backbone.class_features(task))


@dataclass(frozen=True)
class Shared:
    weight: Any

    def logits(self, queries: Any) -> Any:
        return queries.features @ self.weight.T

    def tensors(self) -> Any:
        return {"weight": self.weight}


def test_a_method_that_cannot_be_kept_says_why_and_finishes(photos: Path, tmp_path: Path) -> None:
    name = f"{Path(__file__)}:Unkept"
    spec = cells(name, datasets=(f"folder:{photos}",), limit=None)[0]
    record = run_one(spec, Session(models=tmp_path)).record
    assert record.status == "done", record.error
    assert "model" not in record.footprint
    (incident,) = [one for one in record.incidents if one["kind"] == "model"]
    assert "it holds a million neighbours" in incident["text"]
    with pytest.raises(StoreError, match="it holds a million neighbours"):
        model_of(tmp_path, record)
    assert not model_folder(tmp_path, spec.key()).exists()


@dataclass(frozen=True)
class Together(Unkept):
    """Zero-shot of a batch, it says."""

    card: ClassVar[Any] = fb.MethodCard("no training", sees="batch")
    cannot_be_kept: ClassVar[str] = ""


def test_what_answers_in_company_is_not_kept(photos: Path, tmp_path: Path) -> None:
    name = f"{Path(__file__)}:Together"
    spec = cells(name, datasets=(f"folder:{photos}",), limit=None, queries="all")[0]
    record = run_one(spec, Session(models=tmp_path)).record
    (incident,) = [one for one in record.incidents if one["kind"] == "model"]
    assert "answers depend on the other queries of its batch" in incident["text"]
    assert fsbench("adapt", "-m", name, photos / "train", "--out", tmp_path / "m").code == 2


def test_a_kept_model_has_the_views_and_random_numbers_of_its_cell(
    photos: Path, tmp_path: Path
) -> None:
    asked = {"shots": 1, "seeds": 3, "backbone": "tiny", "views": 8, "progress": False}
    name = f"{REPOSITORY / 'tests' / 'support' / 'plugin_undeclared.py'}:OfViews"
    results = fb.run(name, f"folder:{photos}", store=tmp_path, keep_models=True, **asked)  # type: ignore[arg-type]
    (record,) = results.where(seeds="3")
    assert record.footprint["encoded_per_query"] == 8
    assert record.footprint["violations"] == []
    answers = results.predictions(record)
    found = results.model(record, method=name).predict([photos / id for id in answers.ids])
    assert np.allclose(found.probability, answers.confidences, atol=1e-6)
    place = ("--method", name, "--store", tmp_path / "evaluated")
    model = model_folder(tmp_path, record.spec.key())
    done = fsbench("evaluate", model, "-d", f"folder:{photos}", *place)
    assert done.code == 0, done
    (evaluated,) = fb.load(tmp_path / "evaluated")
    assert (evaluated.spec.views, evaluated.metrics["top1"]) == (8, record.metrics["top1"])


@dataclass(frozen=True)
class Louder(Unkept):
    """Zero-shot whose scale is in no tensor, so that a restored one takes the backbone's."""

    cannot_be_kept: ClassVar[str] = ""

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        return Scaled(backbone.class_features(task), 3 * backbone.logit_scale)


@dataclass(frozen=True)
class Scaled(Shared):
    scale: float

    def logits(self, queries: Any) -> Any:
        return self.scale * super().logits(queries)


@dataclass(frozen=True)
class Reversed(Unkept):
    """Zero-shot that is restored with its classes in another order."""

    cannot_be_kept: ClassVar[str] = ""

    def restore(self, tensors: Any, vocabulary: Any, backbone: Any) -> Any:
        return Shared(tensors["weight"].flip(0))


@pytest.mark.parametrize("cls", [Louder, Reversed])
def test_a_model_that_answers_otherwise_once_restored_is_not_kept(
    cls: type, photos: Path, tmp_path: Path
) -> None:
    name = f"{Path(__file__)}:{cls.__name__}"
    spec = cells(name, datasets=(f"folder:{photos}",), limit=None)[0]
    record = run_one(spec, Session(models=tmp_path)).record
    assert record.status == "done", record.error
    (incident,) = [one for one in record.incidents if one["kind"] == "model"]
    assert "restored from its tensors it answers otherwise" in incident["text"]
    assert not model_folder(tmp_path, spec.key()).exists()
    refused = fsbench(
        *("adapt", "-m", name, "-d", f"folder:{photos}", "--backbone", "tiny"),
        *("--device", "cpu", "-O", tmp_path / "m"),
    )
    assert refused.code == 2
    assert "restored from its tensors it answers otherwise" in refused.err
    assert not (tmp_path / "m").exists()


# A method that can be kept; `restore`, called before a model is written, does `action` as long as
# the file `mark` is there.
MARKED = """
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from tests.store.test_kept_models import Shared

@dataclass(frozen=True)
class Marked:
    name: ClassVar[str] = "marked"

    def fit(self, task: Any, backbone: Any, ctx: Any) -> Any:
        return Shared(backbone.class_features(task))

    def restore(self, tensors: Any, vocabulary: Any, backbone: Any) -> Any:
        if Path({mark!r}).exists():
            {action}
        return Shared(tensors["weight"])
"""
KILL = "os.kill(os.getpid(), 9)"
# In this process no file may grow any more.
FILL = "resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))"


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[str, Path]]:
    """Make the reference of a method with an action, and its mark."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)

    def make(action: str) -> tuple[str, Path]:
        mark, method = tmp_path / "mark", tmp_path / "marked.py"
        method.write_text(MARKED.format(mark=str(mark), action=action))
        return f"{method}:Marked", mark

    return make


@pytest.mark.slow
def test_a_cell_that_is_lost_with_force_leaves_the_earlier_record_its_model(
    photos: Path, tmp_path: Path, marked: Callable[[str], tuple[str, Path]]
) -> None:
    (method, mark), store = marked(KILL), tmp_path / "store"
    run = ("run", "-m", method, "-d", f"folder:{photos}", "--shots", 1, "--seeds", 1)
    run = (*run, "--backbone", "tiny", "--store", store, "--keep-models")
    assert fsbench(*run).code == 0
    (record,) = fb.load(store)
    folder = model_folder(store, record.spec.key())
    config = (folder / "config.json").read_bytes()
    mark.touch()
    lost = fsbench(*run, "--force")
    assert (lost.code, "the earlier result is kept" in lost.out + lost.err) == (1, True), lost
    assert (folder / "config.json").read_bytes() == config
    assert fsbench("store", "verify", "--store", store).code == 0
    mark.unlink()
    assert fsbench(*run, "--force").code == 0
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert fsbench("store", "verify", "--store", store).code == 0


@pytest.mark.slow
def test_a_disk_that_is_full_for_models_leaves_no_result_without_one(
    photos: Path, tmp_path: Path, marked: Callable[[str], tuple[str, Path]]
) -> None:
    (method, mark), store = marked(FILL), tmp_path / "store"
    run = ("run", "-m", method, "-d", f"folder:{photos}", "--shots", 1, "--jobs", 1)
    run = (*run, "--seeds", "1-3", "--backbone", "tiny", "--store", store, "--keep-models")
    mark.touch()
    full = fsbench(*run)
    # What ends a worker of foreign code fails that code's cells alone; the next run tries again.
    assert full.code == 1, full
    records = list(Store(store).records())
    assert [record.transient for record in records] == [True] * 3
    assert all("no space to write" in (one.error or {})["traceback"] for one in records)
    mark.unlink()
    again = fsbench(*run)
    assert (again.code, "models: 3 kept" in again.out) == (0, True), again
