"""EXIF orientation: applied to own images, ignored in benchmark sets, and never mixed."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fewshot_bench
from fewshot_bench import Item
from fewshot_bench import load as results
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.images.loader import ImageSource
from fewshot_bench.store.store import Store
from fewshot_bench.testing.toy import ToyDataset, toy_backbone
from tests.support.answers import stored_arrays
from tests.support.helpers import fsbench, image_folder, save_image

QUICK = ("--backbone", "tiny", "--shots", 1, "--seeds", 1, "--engine", "here")
QUARTER = 6


def turned(source: Path, target: Path, *, pixels: bool) -> Path:
    """Copies of the pictures: with an EXIF tag on rotated pixels, or with the displayed pixels."""
    for path in sorted(source.rglob("*.png")):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            exif = image.getexif()
            if pixels:
                image.save(place)
            else:
                exif[274] = QUARTER
                image.transpose(Image.Transpose.ROTATE_90).save(place, exif=exif)
    return target


@pytest.fixture
def upright(tmp_path: Path) -> Path:
    for first, role, count in ((0, "train", 4), (100, "val", 2), (200, "test", 6)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                path = tmp_path / "upright" / role / name / f"{index}.png"
                save_image(path, first + 50 * label + index)
    return tmp_path / "upright"


def logits(store: Path) -> dict[str, np.ndarray]:
    opened = Store(store)
    found = {}
    for record in opened.records():
        arrays = stored_arrays(opened, record.spec.key())
        order = np.argsort(arrays["ids"])
        found[record.spec.method] = arrays["logits"][order]
    return found


def run(root: Path, store: Path, *words: object) -> str:
    asked = (*QUICK, "-m", "zero-shot", "-d", f"folder:{root}", "--store", store, *words)
    result = fsbench("run", *asked)
    assert (result.code, result.err) == (0, "")
    return result.out


def test_rotated_images_are_seen_as_they_are_shown(tmp_path: Path, upright: Path) -> None:
    lying = turned(upright, tmp_path / "lying", pixels=False)
    assert "EXIF" not in run(upright, tmp_path / "a")
    told = f"folder:{lying}: 24 pictures turned upright by EXIF, unless --exif ignore"
    assert told in run(lying, tmp_path / "b")
    run(lying, tmp_path / "c", "--exif", "ignore")
    right, mended, wrong = (logits(tmp_path / name)["zero-shot"] for name in "abc")
    assert np.array_equal(right, mended)
    assert not np.allclose(right, wrong, atol=1e-3)


def test_what_a_source_says_of_its_images_turns_none(tmp_path: Path) -> None:
    save_image(tmp_path / "upright" / "0.png", 1)
    turned(tmp_path / "upright", tmp_path / "lying", pixels=False)
    dataset = ToyDataset({"0": (tmp_path / "lying" / "0.png").read_bytes()})
    items = [Item("0", 0, "")]
    backbone = toy_backbone("cpu", "fp32")
    pixels = {}
    for rotate in (False, True):
        source = ImageSource(ImageFiles(dataset, items), 1, backbone, rotate=rotate)
        # A step that somebody describes there decides nothing.
        source.orientation["step"] = "crop"
        (pixels[rotate],) = source.batches(1, [0])
        assert source.orientation == ({"exif": "rotate"} if rotate else {})
    assert not torch.equal(pixels[False], pixels[True])


def test_the_two_ways_share_nothing_and_do_not_mix(tmp_path: Path, upright: Path) -> None:
    lying, store = turned(upright, tmp_path / "lying", pixels=False), tmp_path / "store"
    run(lying, store, "--exif", "ignore")
    assert "0 done already" in run(lying, store)
    fresh = tmp_path / "fresh"
    run(lying, fresh, "--exif", "rotate")
    assert "1 done already" in run(lying, fresh)
    both = {r.spec.exif: r for r in Store(store).records()}
    (alone,) = Store(fresh).records()
    assert both["rotate"].metrics == alone.metrics
    assert both["rotate"].spec.to_dict()["exif"] == "rotate"
    assert both["ignore"].spec.to_dict()["exif"] == "ignore"
    blocks = fsbench("compare", "--store", store)
    assert (blocks.code, blocks.out.count(" of 2: exif ")) == (0, 2)
    for way in ("auto", "rotate", "ignore"):
        table = fsbench("compare", "--store", store, "--exif", way)
        assert (table.code, "exif ignore" in table.out) == (0, way == "ignore")
    ignored = [cell for cell in results(store) if cell.spec.exif == "ignore"]
    assert "exif:ignore" in signature_of(ignored)
    assert "--exif ignore" in commands_of(cell.spec for cell in ignored)[0][0]


def test_benchmark_sets_stay_as_they_were_beside_own_images(tmp_path: Path, upright: Path) -> None:
    own, store = f"folder:{turned(upright, tmp_path / 'lying', pixels=False)}", tmp_path / "store"
    asked = ("run", *QUICK, "-m", "zero-shot", "--store", store, "-d", f"digits,{own}")
    first = fsbench(*asked, "--transfer", own)
    assert (first.code, first.err) == (0, "")
    assert "3 done already, 0 to run" in fsbench(*asked, "--transfer", own).out
    fsbench("run", *QUICK, "-m", "zero-shot", "--store", tmp_path / "alone", "-d", "digits")
    (alone,) = Store(tmp_path / "alone").records()
    cells = {(r.spec.dataset, r.spec.target): r.spec for r in Store(store).records()}
    assert {where: spec.exif for where, spec in cells.items()} == {
        ("digits", ""): "ignore",
        (own, ""): "rotate",
        ("digits", own): "rotate",
    }
    assert cells["digits", ""].key() == alone.spec.key()
    table = fsbench("compare", "--store", store)
    assert (table.code, "digits" in table.out, "lying" in table.out) == (0, True, True)
    assert "exif" not in table.out
    assert "exif" not in fsbench("audit", "--store", store).out
    frame = results(store).to_frame()
    assert set(frame["exif"]) == {"ignore", "rotate"}


@pytest.mark.parametrize("words", [(), ("--exif", "ignore")])
def test_the_command_of_a_missing_cell_fills_it(
    tmp_path: Path, upright: Path, words: tuple[str, ...]
) -> None:
    own, store = f"folder:{turned(upright, tmp_path / 'lying', pixels=False)}", tmp_path / "store"
    both = ("run", "-m", "zero-shot,tip-adapter", "--store", store, *words)
    assert fsbench(*both, *QUICK, "-d", f"digits,{own}").code == 0
    gone = [r.spec for r in Store(store).records() if r.spec.method == "tip-adapter"]
    (gone,) = (spec for spec in gone if spec.dataset == own)
    assert fsbench("store", "rm", gone.key(), "--store", store, "--yes").code == 0
    (line,) = (
        line
        for line in fsbench("compare", "--store", store).out.splitlines()
        if "fsbench run" in line
    )
    again = fsbench(*shlex.split(line[line.index("fsbench run") :])[1:])
    assert (again.code, "1 to run" in again.out) == (0, True), again.err
    assert gone.key() in {r.spec.key() for r in Store(store).records()}


def test_a_model_of_own_images_turns_what_it_is_asked(tmp_path: Path, upright: Path) -> None:
    lying = turned(upright, tmp_path / "lying", pixels=False)
    asked = {"method": "tip-adapter", "backbone": "tiny", "device": "cpu", "budget": "5m"}
    made = fewshot_bench.adapt(f"folder:{lying}", tmp_path / "model", **asked)
    assert made.config.exif == "rotate"
    assert fewshot_bench.adapt("digits", tmp_path / "other", **asked).config.exif == "ignore"
    model = fewshot_bench.load_model(made.folder, device="cpu")
    shown, stored = (sorted((root / "test").rglob("*.png")) for root in (upright, lying))
    answers = [model.predict(paths)["probability"] for paths in (shown, stored)]
    assert np.array_equal(*answers)


def test_damaged_exif_is_no_warning_of_pillow_on_the_terminal(tmp_path: Path) -> None:
    # One entry is announced, and its last two bytes are missing.
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0"
    for path in image_folder(tmp_path / "photos").rglob("*.jpg"):
        with Image.open(path) as image:
            image.save(path, exif=exif)
    words = ("run", "-m", "zero-shot", "-d", f"folder:{tmp_path / 'photos'}", *QUICK)
    with warnings.catch_warnings(record=True) as here:
        warnings.simplefilter("always")
        done = fsbench(*words, "--store", tmp_path / "store")
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    assert not [warning for warning in here if "EXIF" in str(warning.message)]
