"""Kept models of methods that no plug-in registers: the class is handed over, and checked."""

from __future__ import annotations

import importlib
import reprlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import open_clip
import pytest
from safetensors.torch import save_file

import fewshot_bench as fb
from fewshot_bench.api.code_closure import source_digest
from fewshot_bench.api.own_methods import own_method
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import loading
from fewshot_bench.store.kept_methods import keep
from fewshot_bench.store.kept_models import config_of, write_model
from fewshot_bench.utils.errors import StoreError
from fewshot_bench.utils.rng import isolate
from tests.support.families import MODEL, WEIGHTS, configure
from tests.support.helpers import fsbench, image_folder, save_image

SOURCE = """
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

import fewshot_bench as fb


@dataclass(frozen=True)
class Scaled:
    factor: float
    class_features: Tensor

    def logits(self, queries):
        return self.factor * queries.features @ self.class_features.T

    def tensors(self):
        return {}


@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    factor: float = fb.hyper(10.0, "scale of the logits")

    @property
    def doubled(self) -> float:
        return 2 * self.factor

    def fit(self, task, backbone, ctx) -> Scaled:
        return Scaled(self.factor, backbone.class_features(task))


class Other(Own):
    name: ClassVar[str] = "other"
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "photos", train=1, test=2)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The class of a module that a script imports."""
    (tmp_path / "fsbench_own_script.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("fsbench_own_script")
    yield module.Own
    del sys.modules["fsbench_own_script"]


def kept(folder: Path, own: type, code: str = "") -> Path:
    """A model of a class in a file; code: its digest, by default that of `own`."""
    vocabulary = fb.Vocabulary(("cat", "dog"), ("a photo of a {}.",))
    config = config_of("zero-shot", own(), loading.load("tiny"), vocabulary)
    config = msgspec.structs.replace(
        config,
        method="own",
        method_version=f"1+{(code or source_digest(own))[:8]}",
        method_origin="fsbench_own_script.py:Own",
        method_code=code or source_digest(own),
    )
    write_model(folder, config, {}, "a card")
    return folder


def test_the_class_of_the_fit_is_taken_and_another_refused(own: type, tmp_path: Path) -> None:
    folder = kept(tmp_path / "model", own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fb.load_model(folder, method=own).method.factor == 10.0
    other = sys.modules[own.__module__].Other
    with pytest.raises(fb.UsageError, match=r"fitted by own, method=Other is another class"):
        fb.load_model(folder, method=other)
    for wrong in (own(), int):
        with pytest.raises(fb.UsageError, match="expected the class of a method"):
            fb.load_model(folder, method=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("edited", [False, True])
def test_a_class_of_a_session_is_compared_with_the_file_that_was_written_of_it(
    own: type, tmp_path: Path, edited: bool
) -> None:
    """As `fb.run` writes it: below other lines, in a file of another name."""
    source = SOURCE.replace("backbone.class_features", "-backbone.class_features")
    files = {"Own.py": ('"""A copy."""\n' + (source if edited else SOURCE)).encode()}
    reference = str(tmp_path / "results" / "methods" / ("0" * 16) / "Own.py:Own")
    written = own_method(own, "Own.py", "Own", files, "0" * 64, "", reference)
    keep(tmp_path / "results", written)
    folder = kept(tmp_path / "results" / "models" / "cell", own, "0" * 64)
    # As `dataclass` does from Python 3.13 on.
    own.__repr__ = reprlib.recursive_repr()(own.__repr__)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fb.load_model(folder, method=own)
    assert len(said) == edited
    assert all("is not that of the fit" in str(one.message) for one in said)


def test_weights_that_have_moved_are_found_beside_the_model(tmp_path: Path) -> None:
    name = configure(tmp_path / "weights")
    with isolate(0):
        module = open_clip.CLIP(**MODEL)
    save_file(module.state_dict(), tmp_path / "weights" / WEIGHTS)
    vocabulary = fb.Vocabulary(("cat", "dog"), ("a photo of a {}.",))
    method = registry().method_class("zero-shot")()
    config = config_of("zero-shot", method, loading.load(name), vocabulary)
    write_model(tmp_path / "models" / "m", config, {}, "a card")
    beside = (tmp_path / "weights").rename(tmp_path / "models" / "weights")
    assert fb.load_model(tmp_path / "models" / "m").backbone.name == f"local-dir:{beside}"
    save_file({name: 2 * one for name, one in module.state_dict().items()}, beside / WEIGHTS)
    with pytest.raises(StoreError, match="was fitted on other weights"):
        fb.load_model(tmp_path / "models" / "m")
    beside.rename(tmp_path / "elsewhere")
    with pytest.raises(fb.DataMissingError, match="or put it beside the model's folder"):
        fb.load_model(tmp_path / "models" / "m")


def test_the_error_names_the_class_to_hand_over(own: type, tmp_path: Path) -> None:
    folder = kept(tmp_path / "model", own)
    with pytest.raises(fb.UsageError, match=r"that of fsbench_own_script.py:Own.* method=Own$"):
        fb.load_model(folder)


def test_measuring_runs_no_file_that_a_model_names(own: type, photos: Path, tmp_path: Path) -> None:
    """And the record has the code that answered."""
    file, trace = tmp_path / "model" / "fsbench_own_script.py", tmp_path / "trace"
    folder = kept(tmp_path / "model", own)
    file.write_text(f"open({str(trace)!r}, 'w').close()\n{SOURCE}")
    code = fb.evaluate(fb.load_model(folder, method=own), f"folder:{photos}").environment["code"]
    file.unlink()
    again = fb.evaluate(fb.load_model(folder, method=own), f"folder:{photos}")
    assert not trace.exists()
    assert again.environment["code"] == code
    assert (code["registered"], code["digest"]) == (False, source_digest(own))


def test_adapt_says_how_a_model_of_a_class_in_a_file_is_used(own: type, tmp_path: Path) -> None:
    photos = tmp_path / "train"
    for seed, name in enumerate(("cat", "dog")):
        save_image(photos / name / "0.jpg", seed)
    file = tmp_path / "fsbench_own_script.py"
    asked = ("-m", f"{file}:Own", "-d", f"folder:{photos}", "--backbone", "tiny")
    done = fsbench("adapt", *asked, "-O", tmp_path / "m")
    assert done.code == 0, done.err
    (code,) = (tmp_path / "m" / "methods").glob("*/fsbench_own_script.py")
    use = f"fsbench predict {tmp_path / 'm'} IMAGES --method {code}:Own"
    assert done.out.endswith(f"model in {tmp_path / 'm'}; {use}\n")
    file.unlink()
    images = (str(photos), "--method", f"{code}:Own", "--format", "csv")
    assert fsbench("predict", tmp_path / "m", *images).out.count(".jpg,") == 2
    refused = fsbench("predict", tmp_path / "m", photos)
    assert (
        f"only if it is named; its code is there: read it, then add method='{code}" in refused.err
    )
    assert fb.load_model(tmp_path / "m", method=own).classnames == ("cat", "dog")


def test_a_fit_without_annotation_is_loaded_with_the_class_of_its_own_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command imported the file under another name than the script does."""
    file = tmp_path / "fsbench_plain_script.py"
    file.write_text(SOURCE.replace(" -> Scaled:", ":"))
    photos = image_folder(tmp_path / "photos", train=2, test=2)
    asked = ("-d", f"folder:{photos}", "--backbone", "tiny", "--device", "cpu")
    done = fsbench("adapt", "-m", f"{file}:Own", *asked, "-O", tmp_path / "m")
    assert done.code == 0, done.err
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, file.stem, raising=False)
    own = importlib.import_module(file.stem).Own
    model = fb.load_model(tmp_path / "m", method=own)
    assert isinstance(model, fb.Model)
