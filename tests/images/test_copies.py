"""Copies among pictures: found whatever changed them, in any order, and never one giant group."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from fewshot_bench import Item
from fewshot_bench.images import copies as module
from fewshot_bench.images.copies import find_copies
from fewshot_bench.images.decode import find_unreadable
from fewshot_bench.images.looking import look_at
from tests.support.copies import center, picture
from tests.support.image_cases import Photos

QUALITY = {"quality": 30}
# Suffix of the copy -> (change, options of the file).
CHANGES = {
    "again.png": (lambda image: image, {}),
    "small.jpg": (lambda image: image.resize((120, 100)), {}),
    "poor.jpg": (lambda image: image, QUALITY),
    "mirrored.jpg": (ImageOps.mirror, {}),
    "part.jpg": (lambda image: center(image, 0.8, 0.8), {}),
    "little.jpg": (lambda image: center(image, 0.95, 0.95), {}),
    "bright.jpg": (lambda image: ImageEnhance.Brightness(image).enhance(1.15), {}),
    "format.webp": (lambda image: image, {}),
    "turned.jpg": (lambda image: image.transpose(Image.Transpose.ROTATE_90), {"exif": 6}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for images whose stamps count as settled, and a cache of the test's own."""
    monkeypatch.setenv("FSBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fewshot_bench.images.digests.RACY_SECONDS", 0.0)
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def listed(folder: Path, labels: Sequence[int] = ()) -> list[Item]:
    """Items of all files by name, of the given labels, or of label 0."""
    names = sorted(path.name for path in folder.iterdir())
    both = itertools.zip_longest(names, labels, fillvalue=0)
    return [Item(str(name), int(label), f"class {label}") for name, label in both]


def groups(folder: Path, items: Sequence[Item]) -> set[frozenset[str]]:
    """The groups of two or more pictures, by id."""
    found = find_copies(Photos(folder), items)
    return {frozenset(items[at].id for at in group) for group in found.members}


def plant(folder: Path, first: int, change: str) -> None:
    """Write the picture of a seed, and a changed copy of it."""
    image, (how, options) = picture(first), CHANGES[change]
    image.save(folder / f"{first}.png")
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    how(image).save(folder / f"{first} {change}", **options)


def test_planted_copies_are_all_found_and_nothing_else(folder: Path) -> None:
    for seed, change in enumerate(CHANGES):
        plant(folder, seed, change)
    for seed in range(100, 120):
        picture(seed).save(folder / f"{seed}.png")
    expected = {frozenset({f"{s}.png", f"{s} {name}"}) for s, name in enumerate(CHANGES)}
    assert groups(folder, listed(folder)) == expected


def test_all_copies_of_a_picture_are_one_group(folder: Path) -> None:
    for change in CHANGES:
        plant(folder, 3, change)
    (folder / "copy of a copy.jpg").write_bytes((folder / "3 part.jpg").read_bytes())
    items = listed(folder)
    found = find_copies(Photos(folder), items)
    assert (len(found.members), found.copied, found.exact) == (1, len(items) - 1, 2)
    assert set(found.groups.tolist()) == {0}


@given(order=st.permutations(range(12)), labels=st.lists(st.integers(0, 2), min_size=12))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_groups_and_contradictions_do_not_depend_on_the_order(
    folder: Path, order: list[int], labels: list[int]
) -> None:
    if not list(folder.iterdir()):
        for seed, change in enumerate(("again.png", "mirrored.jpg", "part.jpg", "poor.jpg")):
            plant(folder, seed, change)
        for seed in range(20, 24):
            picture(seed).save(folder / f"{seed}.png")
    items = listed(folder, labels[:12])
    shuffled = [items[at] for at in order]
    assert groups(folder, shuffled) == groups(folder, items)
    found = find_copies(Photos(folder), shuffled)
    clashes = {frozenset(shuffled[at].id for at in group) for group in found.contradictions}
    label = {item.id: item.label for item in items}
    assert clashes == {
        group for group in groups(folder, items) if len({label[id] for id in group}) > 1
    }
    for place, first in enumerate(found.groups.tolist()):
        assert first <= place
        assert found.groups[first] == first


def test_a_recolored_picture_is_no_copy(folder: Path) -> None:
    image = picture(5)
    image.save(folder / "red.png")
    Image.merge("RGB", image.split()[::-1]).save(folder / "blue.png")
    assert groups(folder, listed(folder)) == set()


@pytest.mark.parametrize("most", [20, 1000])
def test_pictures_of_one_desk_are_no_giant_group(
    folder: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are known to look alike before or after they were compared."""
    monkeypatch.setattr(module, "MOST_MEMBERS", min(most, 20))
    if most > 20:
        monkeypatch.setattr(module, "share_alike", lambda *some: 0.0)
    rng, desk = np.random.default_rng(1), picture(0)
    for index in range(40):
        image = desk.copy()
        at, size = rng.integers(20, 160, 2), int(rng.integers(45, 80))
        color = tuple(rng.integers(0, 255, 3).tolist())
        ImageDraw.Draw(image).ellipse((*at, *(at + size)), fill=color)
        image.save(folder / f"{index:02}.png")
    image.save(folder / "copy.jpg", quality=80)
    (folder / "equal.png").write_bytes((folder / "07.png").read_bytes())
    items = listed(folder)
    found = find_copies(Photos(folder), items)
    assert any({"07.png", "equal.png"} <= group for group in groups(folder, items))
    assert any({"39.png", "copy.jpg"} <= group for group in groups(folder, items))
    assert max(map(len, found.members)) <= 6
    assert "look alike throughout" in found.unsearched
    assert found.unsearched in " ".join(look_at(Photos(folder), items).lines())


def test_of_many_pictures_only_equal_files_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(folder, 0, "poor.jpg")
    (folder / "equal.png").write_bytes((folder / "0.png").read_bytes())
    monkeypatch.setattr(module, "MOST_COMPARED", 2)
    found = find_copies(Photos(folder), listed(folder))
    assert (found.copied, found.exact) == (1, 1)
    assert "over 2" in found.unsearched


def test_pictures_are_read_once_for_all_questions(folder: Path) -> None:
    for seed, change in enumerate(CHANGES):
        plant(folder, seed, change)
    (folder / "broken.jpg").write_bytes(b"no image")
    items, photos = listed(folder), Photos(folder)
    first = look_at(photos, items)
    assert sorted(photos.reads) == [item.id for item in items]
    photos.reads.clear()
    again = look_at(photos, items)
    assert (again.copies.groups == first.copies.groups).all()
    assert (again.lines(), again.turned) == (first.lines(), 1)
    assert list(find_unreadable(photos, items).bad) == ["broken.jpg"]
    assert set(photos.reads) == {"broken.jpg"}
    sizes = {items[at].id: seen.size for at, seen in again.seen.items()}
    assert sizes["8 turned.jpg"] == sizes["8.png"] == (240, 200)


def test_what_a_person_should_know_is_said_and_nothing_else(folder: Path) -> None:
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    assert look_at(Photos(folder), listed(folder, (0, 1, 2))).lines() == [
        "3 pictures of 3 classes: 1 of each"
    ]
    for name in ("1b.png", "1c.png", "copy.jpg"):
        picture(1).save(folder / name)
    picture(9, (30, 50)).save(folder / "tiny.png")
    (folder / "void.png").write_bytes(b"")
    lines = look_at(Photos(folder), listed(folder, (0, 1, 1, 1, 2, 0, 0, 0))).lines()
    assert lines == [
        "8 pictures of 3 classes: 1 of 'class 2' to 4 of 'class 0'",
        "3 copies of other pictures (2 byte for byte)",
        "1 picture likely under two labels: 1.png = copy.jpg",
        "1 picture cannot be used: void.png (the file is empty)",
        "1 picture below 32 pixels on a side: tiny.png",
    ]
