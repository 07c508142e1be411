"""`fsbench data verify`: checks that pass, differ, and fail."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.data_states import SPLIT, different_images, lines, states, verify, write_dtd
from tests.support.helpers import fsbench, image_folder, save_image


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in train/, val/ and test/, with distinct images."""
    return different_images(tmp_path / "pets")


def test_a_sound_folder_is_ok(folder: Path) -> None:
    result = verify(f"folder:{folder}", "--strict")
    assert (result.code, result.err) == (0, "")
    checks = ("lists", "counts", "images", "formats", "sizes", "duplicates", "near-duplicates")
    assert states(result) == dict.fromkeys(checks, "ok")
    assert lines(result)["images"][1] == "all 18 open"
    assert "2 classes, 8/4/6 images" in lines(result)["counts"][1]
    assert lines(result)["sizes"][1] == "all 40 x 32 pixels"
    assert result.out.endswith("verified\n")


def test_damaged_and_empty_images_fail_and_are_named(folder: Path) -> None:
    save_image(folder / "train/cat/cut.jpg", 99, (300, 300))
    cut = folder / "train/cat/cut.jpg"
    cut.write_bytes(cut.read_bytes()[:5000])
    (folder / "test/dog/0.png").write_bytes(b"")
    (folder / "val/dog/0.png").write_bytes(b"<html>not found</html>")
    save_image(folder / "test/cat/small.png", 98, (12, 12))
    small = folder / "test/cat/small.png"
    small.write_bytes(small.read_bytes()[:200])
    result = verify(f"folder:{folder}")
    assert result.code == 3
    assert lines(result)["images"] == ("FAILED", "4 of 20 cannot be used: fetch or restore them")
    assert re.search(r"train train/cat/cut\.jpg: OSError: .*truncated", result.out)
    assert "test test/dog/0.png: the file is empty" in result.out
    assert "test test/cat/small.png: " in result.out
    assert "val val/dog/0.png: no known image format (it starts with b'<html>" in result.out
    assert result.out.endswith("FAILED: images\n")
    assert states(result)["formats"] == "ok"


def test_only_the_first_twenty_are_named(tmp_path: Path) -> None:
    for index in range(50):
        for role in ("train", "test"):
            path = tmp_path / role / ("cat", "dog")[index % 2] / f"{index:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"?")
    result = verify(f"folder:{tmp_path}")
    assert result.out.count("no known image format") == 20
    assert "and 80 more" in result.out


def test_a_picture_in_lab_colors_is_usable(folder: Path) -> None:
    colors = Image.new("LAB", (40, 32), (120, 10, 30))
    colors.save(folder / "train/cat/lab.tiff")
    result = fsbench("data", "verify", f"folder:{folder}")
    assert "damaged" not in result.out
    assert "1 LAB" in result.out


def test_formats_modes_rotation_and_single_pixels(folder: Path) -> None:
    save_image(folder / "train/cat/gray.png", 50, mode="L")
    save_image(folder / "train/cat/four.jpg", 51, mode="CMYK")
    save_image(folder / "train/cat/x.png", 52)
    (folder / "train/cat/x.png").rename(folder / "train/cat/lie.jpg")
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[274] = 6
    turned.save(folder / "train/dog/turned.jpg", exif=exif)
    Image.new("RGB", (1, 30), "blue").save(folder / "test/dog/thin.png")
    result = verify(f"folder:{folder}")
    assert result.code == 0
    state, text = lines(result)["formats"]
    assert state == "ok"
    for part in ("21 PNG, 2 JPEG", "1 L", "1 CMYK", "1 named .jpg hold PNG", "1 with an EXIF"):
        assert part in text
    assert lines(result)["sizes"][0] == "differs"
    assert "           test test/dog/thin.png\n" in result.out
    assert "too small or too flat" in lines(result)["near-duplicates"][1]
    assert verify(f"folder:{folder}", "--strict").code == 1


@pytest.fixture
def dtd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    return write_dtd(tmp_path)


def test_a_subset_of_a_public_set_differs_and_passes(dtd: Path) -> None:
    result = verify("dtd")
    assert result.code == 0
    assert {n for n, state in states(result).items() if state == "differs"} == {
        *("counts", "split", "draws")
    }
    text = lines(result)["counts"][1]
    assert text.startswith(
        "2 classes, 8/4/6 images (train/val/test); published: 47 classes, 2,820/"
    )
    assert "not the published split: numbers cannot be compared" in text
    assert lines(result)["draws"][1] == "0 of 15 published few-shot draws are reproduced"
    assert result.out.endswith("dtd: verified; differs: counts, split, draws\n")
    assert verify("dtd", "--strict").code == 1


def test_a_data_root_may_have_a_name_that_is_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / os.fsdecode(b"donn\xe9es")
    monkeypatch.setenv("FSBENCH_DATA", str(root))
    write_dtd(root)
    assert verify("dtd").code == 0
    (found,) = json.loads(fsbench("data", "status", "dtd", "--format", "json").out)["datasets"]
    assert (found["state"], found["current"]) == ("ready", True)
    asked = ("-m", "zero-shot", "--backbone", "tiny", "--shots", 1, "--seeds", 1)
    assert fsbench("run", *asked, "-d", "dtd", "--store", tmp_path / "results").code == 0


def test_missing_images_and_broken_lists_fail_with_the_step(dtd: Path) -> None:
    (dtd / "images/train/cat/1.png").unlink()
    result = verify("dtd")
    assert (result.code, states(result)) == (3, {"lists": "FAILED"})
    assert "train/cat/1.png" in result.out
    assert "fsbench data prepare dtd" in result.out
    (dtd / SPLIT).write_text("{", "utf-8")
    result = verify("dtd")
    assert (result.code, states(result)) == (3, {"lists": "FAILED"})
    assert "cannot be read as JSON" in result.out


def test_missing_data_does_not_keep_others_from_being_verified(dtd: Path) -> None:
    result = verify("eurosat,dtd")
    assert result.code == 3
    assert "split_zhou_EuroSAT.json" in result.out
    assert "dtd: verified" in result.out


def test_unknown_names_and_bad_options(tmp_path: Path) -> None:
    result = verify("eurosatt")
    assert (result.code, result.out) == (2, "")
    assert "did you mean 'eurosat'?" in result.err
    assert verify().code == 2
    assert verify("digits", "--jobs", "0").code == 2
    result = verify("digits", "--output", tmp_path / "no" / "pairs.csv")
    assert (result.code, result.out) == (2, "")
    assert "expected a file in a folder that is there" in result.err


def test_embedded_sets_pass_and_a_suite_is_its_members() -> None:
    result = verify("demo")
    assert result.code == 0
    verdicts = [line for line in result.out.splitlines() if ": verified" in line]
    assert [line.partition(":")[0] for line in verdicts] == ["digits", "letters", "shapes"]


def test_images_that_would_turn_white_fail(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "deep")
    deep = np.full((32, 32), 70_000, np.int32)
    Image.fromarray(deep).save(root / "test" / "cat" / "deep.tif")
    found = fsbench("data", "verify", f"folder:{root}")
    assert found.code == 3
    assert "not the values of 8 bits" in found.out


def test_the_split_that_a_store_keeps_is_the_one_that_is_checked(tmp_path: Path) -> None:
    root, store = image_folder(tmp_path / "pets", train=8) / "train", tmp_path / "store"
    name, kept = f"folder:{root}", ("--store", store)
    ran = ("-m", "zero-shot", "-d", name, "--shots", 1, "--seeds", 1, "--backbone", "tiny", *kept)
    assert fsbench("run", *ran).code == 0
    for number in range(8):
        save_image(root / "cat" / f"later{number}.jpg", 5000 + number)
    # Of 8 images per class, 2 are for validation and 2 for testing; of 16, 3 and 5.
    assert "2 classes, 8/4/4 images" in verify(name, *kept).out
    assert "2 classes, 12/5/7 images" in verify(name).out
    found = fsbench("data", "status", name, *kept, "--format", "json")
    assert json.loads(found.out)["datasets"][0]["counts"] == {"train": 8, "val": 4, "test": 4}
