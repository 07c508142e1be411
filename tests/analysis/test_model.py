"""A kept model in use: the run's logits, any image input, and rejected input."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import fewshot_bench as fb
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.runner.fit import Fitted, fit_within_memory
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session
from fewshot_bench.store.kept_models import config_of, read_model, write_model
from tests.support.helpers import cells, image_folder, quick, save_image

METHODS = ("zero-shot", "linear-probe", "tip-adapter-f", "coop", "clip-lora")


def kept(spec: RunSpec, folder: Path, **config: Any) -> Path:
    """Fit a cell and keep its model."""
    session = Session()
    cell = session.resolve(spec)
    fitted = fit_within_memory(cell, session, None, lambda: False)
    assert isinstance(fitted, Fitted)
    about = config_of(
        spec.method, cell.method, fitted.backbone, cell.lists.fitted, exif=spec.exif, **config
    )
    write_model(folder, about, fitted.classifier.tensors(), "# A model\n")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("photos"), train=4, test=20)


def cell(photos: Path, method: str, **more: Any) -> RunSpec:
    options = quick((method,))
    return cells(method, options=options, datasets=(f"folder:{photos}",), limit=None, **more)[0]


def paths(photos: Path) -> list[Path]:
    return sorted((photos / "test").rglob("*.jpg"))


@pytest.fixture(scope="module")
def folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept(cell(photos, "linear-probe"), tmp_path_factory.mktemp("kept") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> fb.Model:
    return fb.load_model(folder)


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_the_run(method: str, photos: Path, tmp_path: Path) -> None:
    spec = cell(photos, method)
    outcome = run_one(spec, Session())
    model = fb.load_model(kept(spec, tmp_path / "model"))
    assert outcome.logits is not None
    assert model.classnames == ("cat", "dog")
    by_id = dict(zip(outcome.ids, outcome.logits, strict=True))
    expected = torch.stack([by_id[f"test/{p.parent.name}/{p.name}"] for p in paths(photos)])
    assert torch.equal(model.logits(paths(photos)), expected)
    reversed_order = model.logits(paths(photos)[::-1], batch=16)
    assert torch.equal(reversed_order.flip(0), expected)


def test_images_of_every_kind_give_the_same_bits(model: fb.Model, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    save_image(path, 7)
    picture = Image.open(path)
    array = np.asarray(picture)
    pixels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    given: list[Any] = [path, str(path), picture, array, pixels, pixels / 255, pixels.half() / 255]
    found = model.logits(given)
    assert all(torch.equal(row, found[0]) for row in found)
    assert torch.equal(model.logits(path)[0], found[0])
    assert torch.equal(model.logits(pixels.unsqueeze(0))[0], found[0])
    names = list(model.predict(given).image)
    assert names == [str(path), str(path), *(f"image {number}" for number in range(2, 7))]


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        ("missing.jpg", "missing.jpg does not exist"),
        ("tests/golden", r"tests/golden holds no image"),
        ("a\0b.jpg", "embedded null"),
        (np.zeros((4, 4), np.uint8), "is a ndarray .4, 4. of uint8; expected a path"),
        (np.zeros((4, 4, 3), np.float32), "is a ndarray .4, 4, 3. of float32"),
        (torch.zeros(4, 4, 3), r"is a Tensor .4, 4, 3. of torch.float32"),
        (torch.full((3, 4, 4), 2.0), "values from 2 to 2, expected 0 to 1"),
        (torch.full((3, 4, 4), float("nan")), "values from nan to nan"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "of torch.int64"),
        (7, "is a int; expected a path"),
    ],
)
def test_what_is_no_image_is_named(model: fb.Model, image: Any, complaint: str) -> None:
    with pytest.raises(fb.DataMissingError, match=complaint):
        model.logits([image])


def test_what_holds_no_images_is_a_type_error(model: fb.Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as file:
        for images in (7, None, b"bytes", {"a": 1}, file):
            for ask in (model.predict, model.logits, lambda given: list(model.stream(given))):
                with pytest.raises(TypeError, match=r"images=.*expected images, folders") as raised:
                    ask(images)
                assert isinstance(raised.value, fb.UsageError)


def test_images_come_in_anything_that_holds_them(
    model: fb.Model, photos: Path, tmp_path: Path
) -> None:
    import pandas as pd

    files = [str(path) for path in paths(photos)]
    pictures = [Image.open(path) for path in files[:3]]
    arrays = np.stack([np.asarray(picture) for picture in pictures])
    tensors = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    expected = model.logits(files)
    (tmp_path / "empty").mkdir()
    for given in (photos / "test", iter(files), pd.Series(files), np.array(files), set(files)):
        found = model.predict(given).set_index("image")
        assert sorted(found.index) == sorted(files)
    for given in (pictures, arrays, tensors, list(tensors), (one for one in arrays)):
        assert torch.equal(model.logits(given), expected[:3])
    mixed = [photos / "test", (files[:2], pictures), tensors, arrays[0], tmp_path / "empty", 7]
    table = model.predict(one for one in mixed)
    problems = table[table.error.notna()]
    assert len(table) == len(files) + 2 + 3 + 3 + 1 + 2
    assert list(problems.error.str.split(";").str[0]) == ["holds no image", "is a int"]
    probabilities = model.probabilities([mixed[:4]]).amax(1)
    assert np.allclose(table.probability[:-2], probabilities)
    assert list(table.image[-2:]) == [str(tmp_path / "empty"), f"image {len(table) - 1}"]


def test_a_bad_picture_is_a_row_with_an_error(
    model: fb.Model, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    good = paths(photos)[0]
    bad = [tmp_path / "broken.jpg", "missing.jpg", "a\0b", None, b"", np.zeros(()), {}, object()]
    table = model.predict([good, *bad, good], top=2, batch=3)
    wrong = [False, *[True] * len(bad), False]
    for column in (table.error.notna(), table["class"].isna(), table.probability.isna()):
        assert list(column) == wrong
    assert table.rejected.dtype == "boolean"
    assert list(table.rejected.isna()) == wrong
    assert not table.rejected.any()
    assert len(table[~table.rejected]) == 2
    alone = model.predict(bad[:1])
    assert list(alone) == list(table)
    assert alone.error[0].startswith("no known image format")


def test_predictions_name_class_and_runner_up(model: fb.Model, photos: Path) -> None:
    table = model.predict(paths(photos), top=2)
    order = ["image", "class", "probability", "runner_up", "runner_up_probability"]
    assert list(table) == [*order, "rejected", "error"]
    expected = model.logits(paths(photos)).double().softmax(1)
    assert np.allclose(table.probability, expected.max(1).values)
    best = [model.classnames[place] for place in expected.argmax(1)]
    assert list(table["class"]) == best
    assert torch.equal(model.probabilities(paths(photos)), expected)
    assert list(model.predict([])) == list(table)
    assert list(model.predict([], top=9)) == list(model.predict(paths(photos)[:1], top=9))
    with pytest.raises(fb.UsageError, match=r"top=0: expected a whole number from 1"):
        model.predict(paths(photos), top=0)


def test_temperature_and_rejection(folder: Path, photos: Path, tmp_path: Path) -> None:
    config, tensors = read_model(folder)
    config = msgspec.structs.replace(config, temperature=1e-300, reject=0.9)
    write_model(tmp_path / "sharp", config, tensors, "")
    sharp = fb.load_model(tmp_path / "sharp")
    table = sharp.predict(paths(photos))
    assert set(table.probability) == {1.0}
    assert not table.rejected.any()
    config = msgspec.structs.replace(config, temperature=1e9, reject=0.9)
    write_model(tmp_path / "flat", config, tensors, "")
    table = fb.load_model(tmp_path / "flat").predict(paths(photos))
    assert table.rejected.all()
    assert set(table["class"]) <= {"cat", "dog"}
    assert np.allclose(table.probability, 0.5)


def test_threads_get_the_same_bits(model: fb.Model, photos: Path) -> None:
    chosen = [paths(photos)[start::4] for start in range(4)]
    alone = [model.logits(images) for images in chosen]
    found: list[Any] = [None] * 4

    def ask(number: int) -> None:
        found[number] = [model.logits(chosen[number], batch=3 + number) for _ in range(5)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answers, expected in zip(found, alone, strict=True):
        assert all(torch.equal(answer, expected) for answer in answers)


def test_a_stream_names_what_it_skips_and_reads_no_further_than_it_must(
    model: fb.Model, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    taken = []

    def endless() -> Any:
        while True:
            for path in (paths(photos)[0], tmp_path / "broken.jpg"):
                taken.append(path)
                yield path

    stream = model.stream(endless(), batch=4)
    first = [next(stream) for _ in range(4)]
    stream.close()
    assert [bool(one.problem) for one in first] == [False, True, False, True]
    assert "no known image format" in first[1].problem
    assert len(taken) <= 12


def test_exif_is_applied_where_the_fit_applied_it(folder: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "upright.png", 3)
    picture = Image.open(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[274] = 6
    picture.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    both = [tmp_path / "upright.png", tmp_path / "turned.png"]
    for way in ("rotate", "ignore"):
        rewritten(folder, tmp_path / way, exif=way)
        upright, turned = fb.load_model(tmp_path / way).logits(both)
        assert torch.equal(upright, turned) is (way == "rotate")


def rewritten(folder: Path, to: Path, **changes: Any) -> Path:
    config, tensors = read_model(folder)
    write_model(to, msgspec.structs.replace(config, **changes), tensors, "")
    return to


def test_images_in_memory_of_equal_values_are_not_one_image(model: fb.Model) -> None:
    values = np.random.default_rng(0).integers(0, 4, (20, 60, 3), dtype=np.uint8)
    first, second = (Image.fromarray(values[..., 0], "P") for _ in range(2))
    first.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    second.putpalette([255, 255, 255, 9, 200, 80, 100, 20, 0, 240, 0, 255])
    pairs = (
        (first, second),
        (60 * values, (60 * values).reshape(60, 20, 3)),
        (Image.fromarray(60 * values), Image.fromarray(60 * values.reshape(60, 60))),
    )
    for one, other in pairs:
        found = model.logits([one, other])
        assert not torch.equal(found[0], found[1])
        assert torch.equal(found[1:], model.logits([other]))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"method": "linear-prob"}, "unknown method 'linear-prob': did you mean 'linear-probe'"),
        (
            {"method": "evil", "method_version": "1+01234567", "method_origin": "evil.py:Evil"},
            "its method evil is that of evil.py:Evil, which no.*pass its class: method=Evil",
        ),
        ({"method_version": "0"}, "fitted by linear-probe version 0, installed is 1"),
        ({"options": {"c": 1.0}}, "have other hyper-parameters"),
        ({"weights_digest": "ab" * 32}, "other weights of tiny .abababababab, here are"),
        ({"settings": "ab" * 32}, "fitted with other settings of tiny .activation, "),
        ({"backbone": "tyni"}, "unknown backbone 'tyni': did you mean 'tiny'"),
        ({"backbone": "ViT-B-16@missing.pt"}, "backbone file missing.pt does not exist"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"exif": "both"}, "exif 'both'"),
        ({"image_size": (32, 48)}, "fitted on images of .32, 48."),
        ({"classnames": ("cat", "dog", "cow")}, "tensors are not those of linear-probe for 3"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line(
    folder: Path, photos: Path, tmp_path: Path, changes: dict[str, Any], complaint: str
) -> None:
    wrong = rewritten(folder, tmp_path / "wrong", **changes)
    with pytest.raises(fb.FsbenchError, match=complaint) as raised:
        fb.load_model(wrong).logits(paths(photos)[:1])
    assert "\n" not in str(raised.value)
    assert str(wrong) in str(raised.value)


def test_logits_that_overflow_are_called_that(folder: Path, photos: Path, tmp_path: Path) -> None:
    config, tensors = read_model(folder)
    write_model(tmp_path / "m", config, {k: v.sign() * 3e38 for k, v in tensors.items()}, "")
    with pytest.raises(fb.FsbenchError, match="logits that are not finite numbers"):
        fb.load_model(tmp_path / "m").logits(paths(photos)[:1])


def test_other_options_and_other_code(folder: Path, tmp_path: Path) -> None:
    config, _ = read_model(folder)
    options = {**config.options, "c": "much"}
    with pytest.raises(fb.FsbenchError, match="c='much' is not float"):
        fb.load_model(rewritten(folder, tmp_path / "typed", options=options))
    other = rewritten(folder, tmp_path / "other", method_code="0" * 64)
    with pytest.warns(UserWarning, match="the code of linear-probe is not that of the fit") as said:
        fb.load_model(other)
    assert said[0].filename == __file__


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:1"])
def test_a_device_that_is_not_there(folder: Path, device: str) -> None:
    with pytest.raises(fb.UsageError, match=f"device '{device}'"):
        fb.load_model(folder, device=device)


def test_a_method_of_no_plug_in_is_handed_over(folder: Path, tmp_path: Path) -> None:
    from fewshot_bench.api.registry import registry

    stated = {"method": "linear-probe", "method_version": "1+01234567", "method_code": ""}
    own = rewritten(folder, tmp_path / "own", **stated)
    cls = registry().method_class("linear-probe")
    assert fb.load_model(own, method=cls).config.method_version == "1+01234567"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(fb.FsbenchError, match="holds no model"):
        fb.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(fb.FsbenchError, match="has format 99"):
        fb.load_model(tmp_path)
