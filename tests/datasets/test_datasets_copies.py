"""Copies of a picture stay together where a user's images are divided."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fsbench_datasets.folder import open_folder
from fsbench_datasets.manifest import open_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fewshot_bench import find_copies
from tests.support.helpers import fsbench, save_image
from tests.support.own_sets import picture

CLASSES = ("ant", "bee", "cat")
# Pictures by class: each is a number, so that equal numbers are copies.
FOLDERS = st.tuples(*(st.lists(st.integers(0, 12), min_size=2, max_size=16) for _ in CLASSES))


def write(root: Path, classes: Sequence[list[int]]) -> dict[str, int]:
    """Write the pictures of each class; returns the number of each by its id."""
    numbers = {}
    for name, own in zip(CLASSES, classes, strict=True):
        (root / name).mkdir()
        for index, number in enumerate(own):
            numbers[f"{name}/{index:02d}.png"] = number
            (root / name / f"{index:02d}.png").write_bytes(picture(number))
    return numbers


def roles_of(dataset: Any) -> dict[str, str]:
    """Role of each id."""
    return {item.id: role for role, items in dataset.items().items() for item in items}


def best(sizes: list[int], target: int, least: int, most: int) -> int:
    """The number of images nearest to the target that some groups have, by trying all."""
    sums = {sum(own) for n in range(len(sizes) + 1) for own in combinations(sizes, n)}
    return min((abs(total - target) for total in sums if least <= total <= most), default=-1)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(classes=FOLDERS, holdout=st.sampled_from([None, 0.1, 0.5]))
def test_no_group_straddles_pools_of_random_folders(
    classes: Sequence[list[int]], holdout: float | None
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        numbers = write(root, classes)
        roles = roles_of(open_folder(str(root), holdout))
        rows = sorted(numbers, key=lambda id: id[::-1])
        with (root / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [("path", "label"), *((id, id.partition("/")[0]) for id in rows)]
            )
        assert roles_of(open_manifest(str(root / "list.csv"), holdout)) == roles
    assert roles.keys() == numbers.keys()
    owners: dict[int, set[str]] = {}
    for id, number in numbers.items():
        owners.setdefault(number, set()).add(id.partition("/")[0])
    for name in CLASSES:
        own = {id: number for id, number in numbers.items() if id.startswith(name)}
        groups = Counter(number for number in own.values() if len(owners[number]) == 1)
        # Whole groups are in one pool, and those of several classes are trained on.
        held = {
            role: Counter(own[id] for id in own if roles[id] == role) for role in ("val", "test")
        }
        assert all(number in groups for role in held for number in held[role])
        assert all(count == groups[number] for role in held for number, count in held[role].items())
        trained = sum(roles[id] == "train" for id in own)
        assert trained
        # As near to the share as whole groups allow, with an image to test on if one can be.
        tested, spare = held["test"].total(), int(len(groups) == len(set(own.values())))
        count = len(own)
        val = max(1, round(count * 0.2)) if count > 2 else 0
        target = min(max(1, round(count * (holdout or 0.3))), count - val - 1)
        nearest = best(list(groups.values()), target, 1, groups.total() - spare)
        assert nearest == (abs(tested - target) if tested else -1)


def test_images_without_copies_are_held_out_by_rank(tmp_path: Path) -> None:
    ants, bees, cats = ([*range(start, start + 10)] for start in (0, 20, 40))
    numbers = write(tmp_path, (ants, bees, cats))
    roles = roles_of(open_folder(str(tmp_path)))
    for name in CLASSES:
        own = [id for id in numbers if id.startswith(name)]
        ranked = sorted(own, key=lambda id: hashlib.sha256(f"1\t{id}".encode()).digest())
        assert [roles[id] for id in ranked] == ["val"] * 2 + ["test"] * 3 + ["train"] * 5


@pytest.mark.parametrize("way", ["resized", "jpeg", "mirrored", "rotated by EXIF"])
def test_near_copies_stay_together(tmp_path: Path, way: str) -> None:
    for label, name in enumerate(("ant", "bee")):
        for index in range(12):
            path = tmp_path / name / f"{index:02d}.png"
            save_image(path, 100 * label + index, (8, 6))
            with Image.open(path) as image:
                image = image.resize((160, 120), Image.Resampling.BICUBIC)
            image.save(path)
            if index % 3 == 0:
                save_copy(image, path.with_name(f"copy {index:02d}"), way)
    dataset = open_folder(str(tmp_path))
    roles = roles_of(dataset)
    for id, role in roles.items():
        if "copy" in id:
            assert role == roles[f"{id.replace('copy ', '')[:-4]}.png"]
    items = [item for pool in dataset.items().values() for item in pool]
    assert find_copies(dataset, items).copied == 8


def save_copy(image: Image.Image, path: Path, way: str) -> None:
    if way == "resized":
        image.resize((120, 90)).save(f"{path}.png")
    elif way == "jpeg":
        image.save(f"{path}.jpg", quality=40)
    elif way == "mirrored":
        ImageOps.mirror(image).save(f"{path}.png")
    else:
        exif = image.getexif()
        exif[274] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(f"{path}.png", exif=exif)


def test_what_copies_a_test_image_of_one_own_is_trained_on(tmp_path: Path) -> None:
    for name, start in (("ant", 0), ("bee", 20)):
        for role, numbers in (("train", range(10)), ("test", range(8, 14))):
            folder = tmp_path / role / name
            folder.mkdir(parents=True)
            for number in numbers:
                (folder / f"{number:02d}.png").write_bytes(picture(start + number))
    roles = roles_of(open_folder(str(tmp_path)))
    for name in ("ant", "bee"):
        assert {roles[f"train/{name}/{number:02d}.png"] for number in (8, 9)} == {"train"}
        assert sum(role == "val" for id, role in roles.items() if f"/{name}/" in id) == 2


def test_a_folder_of_copies_alone_cannot_be_tested_on(tmp_path: Path) -> None:
    write(tmp_path, ([1] * 4, [2] * 4, [3] * 4))
    assert set(roles_of(open_folder(str(tmp_path))).values()) == {"train"}
    words = ("--backbone", "tiny", "--shots", 1, "--seeds", 1, "--store", tmp_path / "store")
    done = fsbench("run", "-m", "zero-shot", "-d", f"folder:{tmp_path}", *words)
    assert (done.code != 0, "has copies of one picture alone" in done.err) == (True, True), done
