"""Images in two pools: equal files, and the same picture saved another way."""

from __future__ import annotations

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fewshot_bench.plugins.data import scan as duplicates
from tests.helpers import fsbench, image_folder
from tests.plugins.test_data_verify import different_images, lines, verify


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(seed: int, size: tuple[int, int] = (240, 200)) -> Image.Image:
    """A smooth picture with structure at several scales, unlike any other seed's."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 255, (cells, cells, 3), dtype=np.uint8))
        canvas += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) / 4
    return Image.fromarray(canvas.astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures in train/, val/ and test/, none like another."""
    root = tmp_path / "photos"
    seeds = iter(range(1000))
    for role in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / role / name).mkdir(parents=True)
            for index in range(12):
                picture(next(seeds)).save(root / role / name / f"{index}.png")
    return root


def test_equal_files_in_two_pools_are_listed_with_both_labels(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    shutil.copy(root / "train/cat/0.png", root / "test/dog/copy.png")
    shutil.copy(root / "train/cat/1.png", root / "val/cat/copy.png")
    shutil.copy(root / "train/cat/1.png", root / "train/cat/again.png")
    output = tmp_path / "pairs.csv"
    result = verify(f"folder:{root}", "--output", output)
    assert result.code == 0
    state, text = lines(result)["duplicates"]
    assert state == "differs"
    assert "1 in train and val, 1 in train and test (1 under another label)" in text
    assert "train train/cat/0.png (cat) = test test/dog/copy.png (dog)" in result.out
    assert lines(result)["near-duplicates"][0] == "ok"
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["first_id"], row["second_id"]) for row in rows] == [
        ("same file", "train/cat/0.png", "test/dog/copy.png"),
        ("same file", "train/cat/1.png", "val/cat/copy.png"),
    ]
    assert [(row["first_label"], row["second_label"]) for row in rows] == [("0", "1"), ("0", "0")]


def test_every_pool_is_held_against_every_other(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "same")
    for role in ("val", "test"):
        for path in (root / role).rglob("*.jpg"):
            source = root / "train" / path.relative_to(root / role)
            if source.exists():
                shutil.copy(source, path)
    result = fsbench("data", "verify", f"folder:{root}")
    text = lines(result)["duplicates"][1]
    assert "4 in train and val, 8 in train and test, 4 in val and test" in text


CHANGES = {
    "jpeg": lambda image: image,
    "half": lambda image: image.resize((120, 100), Image.Resampling.BICUBIC),
    "wide": lambda image: image.resize((300, 180), Image.Resampling.BICUBIC),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "gray": lambda image: image.convert("L"),
}


def test_changed_copies_of_pictures_are_found_and_others_are_not(photos: Path) -> None:
    assert lines(verify(f"folder:{photos}"))["near-duplicates"] == (
        *("ok", "no test image looks like a train or val image"),
    )
    for number, (name, change) in enumerate(CHANGES.items()):
        role = ("train", "val")[number % 2]
        copy = change(Image.open(photos / role / "cat" / f"{number}.png"))
        copy.save(photos / "test" / "dog" / f"{name}.jpg", quality=60)
    result = verify(f"folder:{photos}")
    assert result.code == 0
    state, text = lines(result)["near-duplicates"]
    assert (state, text) == (
        "differs",
        "6 of 30 test images look like a train or val image (6 under another label)",
    )
    for number, name in enumerate(CHANGES):
        role = ("train", "val")[number % 2]
        pair = f"{role} {role}/cat/{number}.png (cat) ~ test test/dog/{name}.jpg (dog), distance"
        assert pair in result.out


def test_flat_and_small_images_are_not_taken_for_one_another(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    for index, role in enumerate(("train", "val", "test")):
        Image.new("RGB", (64, 64), (250 + index,) * 3).save(root / role / "cat" / "flat.png")
        Image.new("RGB", (16, 16), (index, 0, 0)).save(root / role / "dog" / "small.png")
    text = lines(verify(f"folder:{root}"))["near-duplicates"][1]
    assert text.startswith("no test image looks like")
    assert text.endswith("6 too small or too flat to compare")


def thumbnails(count: int, seed: int) -> duplicates.Bytes:
    rng = np.random.default_rng(seed)
    shape = (count, duplicates.SIDE, duplicates.SIDE)
    return rng.integers(0, 256, shape, dtype=np.uint8)


def plain_distance(one: duplicates.Bytes, other: duplicates.Bytes) -> int:
    """Differing gradient signs, one at a time."""

    def signs(gray: duplicates.Bytes) -> list[bool]:
        values, last = gray.astype(int), duplicates.SIDE - 1
        places = [(row, column) for row in range(last) for column in range(last)]
        across = [bool(values[r, c + 1] - values[r, c] > 1) for r, c in places]
        return across + [bool(values[r + 1, c] - values[r, c] > 1) for r, c in places]

    return sum(a != b for a, b in zip(signs(one), signs(other), strict=True))


def test_the_blocked_search_finds_the_closest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    base, queries = thumbnails(70, 1), thumbnails(9, 2)
    noise = np.random.default_rng(3)
    for query, copies in ((1, (3, 40)), (4, (69,)), (7, (20, 21, 22))):
        for copy in copies:
            shift = noise.integers(-12, 13, base[copy].shape)
            base[copy] = np.clip(queries[query].astype(int) + shift, 0, 255)
    base[10] = base[50] = queries[5]
    for name, size in (("QUERY_BLOCK", 2), ("BASE_BLOCK", 8), ("PAIR_BLOCK", 2)):
        monkeypatch.setattr(duplicates, name, size)
    found, distances = duplicates.nearest(base, queries)
    for query, copies in ((1, (3, 40)), (4, (69,)), (7, (20, 21, 22))):
        expected = min((plain_distance(base[copy], queries[query]), copy) for copy in copies)
        assert (distances[query], found[query]) == expected
    assert (distances[5], found[5]) == (0, 10)
    assert np.flatnonzero(found >= 0).tolist() == [1, 4, 5, 7]


def test_equal_digests_are_grouped() -> None:
    digests = [hashlib.sha256(name.encode()).digest() for name in "abcacad"]
    rows = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32)
    groups = sorted(group.tolist() for group in duplicates.same_bytes(rows))
    assert groups == [[0, 3, 5], [2, 4]]
    assert list(duplicates.same_bytes(rows[:0])) == []
