"""Images in two pools: equal files, and the same picture in another encoding."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from fewshot_bench.images import lookalikes
from fewshot_bench.images.fingerprints import WINDOWS, Bytes, Fingerprints, fingerprints
from fewshot_bench.images.lookalikes import nearest
from tests.support.copies import center, picture
from tests.support.data_states import different_images, lines, verify
from tests.support.helpers import fsbench, image_folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def distinct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Distinct pictures in train/, val/ and test/."""
    root = tmp_path_factory.mktemp("distinct") / "photos"
    seeds = iter(range(1000))
    for role in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (root / role / name).mkdir(parents=True)
            for index in range(12):
                picture(next(seeds)).save(root / role / name / f"{index}.png")
    return root


@pytest.fixture
def photos(distinct: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return Path(shutil.copytree(distinct, tmp_path / "photos"))


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


def test_names_in_csv_are_no_formulas(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    for role in ("train", "val", "test"):
        (root / role / "cat").rename(root / role / "=1+1")
    shutil.copy(root / "train/=1+1/0.png", root / "test/dog/copy.png")
    fsbench("data", "verify", f"folder:{root}", "--output", tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["first_class"], row["first_label"], row["second_class"]) == ("'=1+1", "0", "dog")


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


# Name -> (change, its label in the listing).
CHANGES = {
    "jpeg": (lambda image: image, ""),
    "half": (lambda image: image.resize((120, 100), Image.Resampling.BICUBIC), ""),
    "wide": (lambda image: image.resize((300, 180), Image.Resampling.BICUBIC), ""),
    "bright": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), ""),
    "dark": (lambda image: ImageEnhance.Brightness(image).enhance(0.7), ""),
    "gray": (lambda image: image.convert("L"), ""),
    "mirrored": (ImageOps.mirror, " (mirrored)"),
    "cropped": (lambda image: center(image, 0.9, 0.9), " (test is a 90% crop)"),
    "between": (lambda image: center(image, 0.85, 0.85), " (test is a 8"),
    "square": (lambda image: center(image, 5 / 6, 1), " (test is a square crop)"),
    "both": (
        lambda image: ImageOps.mirror(center(image, 0.8, 0.8)),
        " (test is a 80% crop, mirrored)",
    ),
}


def test_changed_copies_of_pictures_are_found_and_others_are_not(photos: Path) -> None:
    assert lines(verify(f"folder:{photos}"))["near-duplicates"] == (
        *("ok", "no test image looks like a train or val image"),
    )
    for number, (name, (change, _)) in enumerate(CHANGES.items()):
        role = ("train", "val")[number % 2]
        copy = change(Image.open(photos / role / "cat" / f"{number}.png"))
        copy.save(photos / "test" / "dog" / f"{name}.jpg", quality=60)
    # Here the train image is a crop of the test image.
    center(Image.open(photos / "test/cat/0.png"), 0.9, 0.9).save(photos / "train/dog/part.png")
    output = photos.parent / "pairs.csv"
    result = verify(f"folder:{photos}", "--output", output)
    assert result.code == 0
    state, text = lines(result)["near-duplicates"]
    assert (state, text) == (
        "differs",
        "12 of 35 test images look like a train or val image (12 under another label)",
    )
    for number, (name, (_, said)) in enumerate(CHANGES.items()):
        role = ("train", "val")[number % 2]
        pair = f"{role} {role}/cat/{number}.png (cat) ~ test test/dog/{name}.jpg (dog), distance"
        assert re.search(f"{re.escape(pair)} [0-7] of 64{re.escape(said)}", result.out)
    part = "train train/dog/part.png (dog) ~ test test/cat/0.png (cat), distance"
    assert re.search(f"{re.escape(part)} [0-7] of 64 .train is a 90% crop.", result.out)
    with output.open(encoding="utf-8", newline="") as file:
        changes = {row["second_id"]: row["change"] for row in csv.DictReader(file)}
    assert changes["test/dog/both.jpg"] == "test is a 80% crop, mirrored"
    assert changes["test/dog/jpeg.jpg"] == ""


def test_large_sets_whose_pictures_all_look_alike_are_not_searched(
    distinct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewshot_bench.plugins.data.verify.MOST_PAIRS", 0)
    assert lines(verify(f"folder:{distinct}"))["near-duplicates"][0] == "ok"
    picture = Image.open(distinct / "train" / "cat" / "0.png")
    for number, (role, name) in enumerate(itertools.product(("train", "test"), ("cat", "dog"))):
        (tmp_path / "eyes" / role / name).mkdir(parents=True)
        for index in range(3):
            changed = ImageEnhance.Brightness(picture).enhance(0.8 + number / 20 + index / 100)
            changed.save(tmp_path / "eyes" / role / name / f"{index}.png")
    state, text = lines(verify(f"folder:{tmp_path / 'eyes'}"))["near-duplicates"]
    assert (state, "100% of sampled pairs" in text) == ("differs", True)
    assert "were not searched" in text


def test_flat_and_small_images_are_not_taken_for_one_another(tmp_path: Path) -> None:
    root = different_images(tmp_path / "pets")
    for index, role in enumerate(("train", "val", "test")):
        Image.new("RGB", (64, 64), (250 + index,) * 3).save(root / role / "cat" / "flat.png")
        Image.new("RGB", (16, 16), (index, 0, 0)).save(root / role / "dog" / "small.png")
    text = lines(verify(f"folder:{root}"))["near-duplicates"][1]
    assert text.startswith("no test image looks like")
    assert text.endswith("6 too small or too flat to compare")


def plain_view(gray: Bytes, down: float, across: float) -> np.ndarray:
    """Resample a centered part of (20, 20) gray values to (12, 12), by integrals on both axes."""
    part = gray.astype(float)
    for share in (down, across):
        integral = np.concatenate([np.zeros((1, part.shape[1])), np.cumsum(part, axis=0)])
        edges = 20 * ((1 - share) / 2 + share * np.linspace(0, 1, 13))
        part = np.array([np.diff(np.interp(edges, np.arange(21), column)) for column in integral.T])
    return part


def plain_nearest(prints: Fingerprints, base: range, query: int) -> tuple[int, int] | None:
    """The nearest base picture and its distance by the definition, one pair at a time."""
    found = []
    ways = itertools.product(base, (True, False), enumerate(WINDOWS), (True, False))
    for other, forward, (place, window), mirrored in ways:
        cropped, whole = (query, other) if forward else (other, query)
        shape = np.array([window.share, window.share])
        if window.frame == "square":
            if prints.shape[cropped].min() >= 0.97:
                continue
            shape = shape * prints.shape[cropped]
        code = prints.mirrored[whole] if mirrored else prints.codes[whole, 0]
        distance = (int(prints.codes[cropped, place]) ^ int(code)).bit_count()
        if distance <= 7:
            one = plain_view(prints.thumbnails[cropped], *shape)
            two = plain_view(prints.thumbnails[whole], 1, 1)
            two = two[:, ::-1] if mirrored else two
            if np.corrcoef(one.ravel(), two.ravel())[0, 1] >= 0.9:
                found.append((distance, other))
    return min(found)[::-1] if found else None


def clustered(seed: int, count: int) -> Fingerprints:
    """Synthetic fingerprints around few centers, so that many pairs are near both limits."""
    rng = np.random.default_rng(seed)
    prints = Fingerprints.empty(count)
    centers = rng.integers(0, 2**63, 3, dtype=np.uint64)
    pictures = rng.integers(0, 256, (3, 20, 20))
    for codes in (prints.codes, prints.mirrored):
        bits = rng.random((*codes.shape, 64)) < rng.choice([0, 0.05, 0.1, 0.3], (*codes.shape, 1))
        codes[...] = centers[rng.integers(0, 3, codes.shape)]
        codes ^= np.packbits(bits, axis=-1).view(np.uint64)[..., 0]
    noise = rng.normal(0, rng.choice([0, 20, 40], (count, 1, 1)), (count, 20, 20))
    gray = pictures[rng.integers(0, 3, count)] + noise
    gray[rng.random(count) < 0.3] = pictures[0]
    prints.thumbnails[:] = np.clip(gray, 0, 255)
    prints.shape[:, 1] = rng.choice([1, 0.98, 0.75], count)
    return prints


@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(0, 4), base=st.integers(0, 12))
@settings(max_examples=4, deadline=None)
def test_the_search_finds_what_all_pairs_would(seed: int, queries: int, base: int) -> None:
    prints = clustered(seed, base + queries)
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("QUERIES", 3), ("PAIRS", 4), ("ROW", 2), ("ROWS", 2)):
            patch.setattr(lookalikes, name, size)
        found = nearest(prints, np.arange(base), np.arange(base, base + queries), jobs=2)
    for place in range(queries):
        expected = plain_nearest(prints, range(base), base + place)
        assert (found.index[place] >= 0) == (expected is not None)
        if expected is not None:
            assert (found.index[place], found.distance[place]) == expected


def test_codes_are_signs_of_the_lowest_frequencies() -> None:
    rng = np.random.default_rng(4)
    gray = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    prints = fingerprints(gray[None, ..., None].repeat(3, axis=3), np.array([[640, 480]]))
    places = np.linspace(0, 1, 961)[:-1] + 1 / 1920
    order = sorted((v * v + u * u, v, u) for v in range(12) for u in range(12))[1:65]
    for place, window in enumerate(WINDOWS):
        parts = (window.share, window.share * (0.75 if window.frame == "square" else 1))
        rows, columns = (((1 - part) / 2 + part * places) * 32 for part in parts)
        fine = gray[rows.astype(int)][:, columns.astype(int)].astype(float)
        bits = []
        for _, down, across in order:
            wave = [np.cos(np.pi * k * places) * (2**0.5 if k else 1) for k in (down, across)]
            bits.append(wave[0] @ fine @ wave[1] / len(places) ** 2 > 0.05)
        code = np.packbits(bits).view(np.uint64)[0]
        assert int(prints.codes[0, place] ^ code).bit_count() <= 1
