"""Recipes of the public sets: complete, inside the data root, and with known digests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import pytest
from fsbench_datasets.catalog import public_set

from fewshot_bench.api.dataset import Preparable
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import Recipe, RemoteFile
from fewshot_bench.plugins.data.download import direct
from fewshot_bench.plugins.data.prepare import check_recipe
from fewshot_bench.splits.published import published_splits
from tests.support.preparing import Shop, Tree, open_shop, sha256, tar, zipped

OOD = ("imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
ELEVEN = ("imagenet", "fgvc_aircraft", *published_splits())
# No digest of this archive is published; `prepare` reports it as not verified.
UNVERIFIED = {"UCF-101-midframes.zip"}


def recipe(name: str) -> Recipe:
    """The recipe of a registered set."""
    dataset = registry().dataset(name)
    assert isinstance(dataset, Preparable)
    return dataset.recipe()


def files() -> list[tuple[str, RemoteFile]]:
    """All files of all recipes."""
    return [(name, file) for name in (*ELEVEN, *OOD) for file in recipe(name).files]


def test_there_is_a_recipe_for_the_eleven_and_the_four_variants() -> None:
    assert len(ELEVEN) == 11
    assert set(registry().expand_datasets(["all"])) == set(ELEVEN)
    for name in (*ELEVEN, *OOD):
        assert recipe(name).files
        check_recipe(name, recipe(name).files)


@pytest.mark.parametrize("name", [*ELEVEN, *OOD])
def test_the_tables_hold_values_of_the_right_kinds(name: str) -> None:
    found = (public_set(name), recipe(name), *recipe(name).files)
    for facts in found:
        for field, hint in get_type_hints(type(facts)).items():
            value = getattr(facts, field)
            if get_origin(hint) is tuple:
                assert isinstance(value, tuple)
                assert all(isinstance(one, get_args(hint)[0]) for one in value)
            elif get_origin(hint) is Literal:
                assert value in get_args(hint)
            elif field == "counts":
                assert all(type(count) is int for count in value.values())
            elif hint in (bool, int):
                assert type(value) is hint
            else:
                assert isinstance(value, hint)


@pytest.mark.parametrize("name", published_splits())
def test_split_files_are_the_published_ones(name: str) -> None:
    known = published_splits()[name]
    (split,) = (file for file in recipe(name).files if file.split)
    assert (split.name, split.sha256) == (known.file, known.file_sha256)
    assert PurePosixPath(split.place).name == known.file
    assert any(url.startswith("https://drive.google.com/file/d/") for url in split.urls)
    for url in split.urls:
        if "githubusercontent" in url:
            assert re.search(r"/[0-9a-f]{40}/", url)


@pytest.mark.parametrize(("name", "file"), files(), ids=lambda value: getattr(value, "name", value))
def test_files_are_verified_and_come_from_the_web(name: str, file: RemoteFile) -> None:
    assert bool(file.digests) != (file.name in UNVERIFIED)
    for algorithm, digest in file.digests.items():
        length = {"md5": 32, "sha256": 64}[algorithm]
        assert re.fullmatch(rf"[0-9a-f]{{{length}}}", digest)
    for url in file.urls:
        assert urlsplit(url).scheme == "https" or file.digests
        assert urlsplit(direct(url)).netloc != "drive.google.com"
    assert len(set(file.urls)) == len(file.urls)
    if not file.unpack:
        assert not file.inner
        assert not file.strip
    if file.unpack:
        assert file.provides or file.place
        assert file.max_unpacked > file.size
        for path in file.provides:
            assert PurePosixPath(path).is_relative_to(file.place)
        for inner in file.inner:
            assert PurePosixPath(inner).is_relative_to(file.strip)


@pytest.mark.parametrize("name", [*ELEVEN, *OOD])
def test_what_no_program_can_fetch_has_steps_that_name_its_place(name: str) -> None:
    known = recipe(name)
    text = "\n".join(known.by_hand)
    for file in known.files:
        if not file.urls or file.name in UNVERIFIED:
            places = (*file.provides, f"downloads/{name}/{file.name}")
            assert any(place in text for place in (places if file.unpack else (file.place,)))
    if text:
        assert "https://" in text


def test_torchvision_layouts_stand_for_the_same_images() -> None:
    layouts = {
        "caltech101": "caltech101/101_ObjectCategories",
        "dtd": "dtd/dtd/images",
        "fgvc_aircraft": "fgvc-aircraft-2013b/data/images",
        "oxford_flowers": "flowers-102/jpg",
        "oxford_pets": "oxford-iiit-pet/images",
        "sun397": "SUN397/a",
        "eurosat": "eurosat/2750",
        "food101": "food-101/images",
    }
    for name, place in layouts.items():
        archive = recipe(name).files[-1]
        assert place in (*archive.provides, *archive.alternatives)


IMAGE = b"an image"
# Member paths of the published archives, without members that are not used.
MEMBERS: dict[str, Tree] = {
    "caltech-101.zip": {
        "caltech-101/101_ObjectCategories.tar.gz": tar({"101_ObjectCategories/a/0.jpg": IMAGE})
    },
    "images.tar.gz": {"images/Abyssinian_1.jpg": IMAGE},
    "cars_train.tgz": {"cars_train/00001.jpg": IMAGE},
    "cars_test.tgz": {"cars_test/00001.jpg": IMAGE},
    "102flowers.tgz": {"jpg/image_00001.jpg": IMAGE},
    "food-101.tar.gz": {"food-101/images/apple_pie/1.jpg": IMAGE},
    "fgvc-aircraft-2013b.tar.gz": {
        "fgvc-aircraft-2013b/data/images/1.jpg": IMAGE,
        "fgvc-aircraft-2013b/data/variants.txt": b"707-320",
    },
    "SUN397.tar.gz": {"SUN397/a/abbey/1.jpg": IMAGE},
    "dtd-r1.0.1.tar.gz": {"dtd/images/banded/1.jpg": IMAGE},
    "EuroSAT.zip": {"2750/Forest/Forest_1.jpg": IMAGE},
    "UCF-101-midframes.zip": {"UCF-101-midframes/Yo_Yo/v_1.jpg": IMAGE},
    "imagenetv2-matched-frequency.tar.gz": {
        "imagenetv2-matched-frequency-format-val/0/1.jpeg": IMAGE
    },
    "ImageNet-Sketch.zip": {"sketch/n01440764/1.JPEG": IMAGE},
    "imagenet-a.tar": {"imagenet-a/n01440764/1.jpg": IMAGE},
    "imagenet-r.tar": {"imagenet-r/n01440764/1.jpg": IMAGE},
}
# Named .tar.gz by its authors, but not compressed.
PLAIN = ("imagenet-a.tar", "imagenet-r.tar", "imagenetv2-matched-frequency.tar.gz")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with open_shop(tmp_path, monkeypatch) as opened:
        yield opened


def test_archives_in_the_published_formats_end_where_they_are_looked_for(shop: Shop) -> None:
    archives = [(name, file) for name, file in files() if file.unpack]
    assert {file.name for _, file in archives} == set(MEMBERS)
    for index, (_, file) in enumerate(archives):
        members = MEMBERS[file.name]
        tarred = tar(members, "w" if file.name in PLAIN else "w:gz")
        content = zipped(members) if file.name.endswith(".zip") else tarred
        url = shop.site.put(f"/{file.name}", content)
        known = {"urls": [url], "sha256": sha256(content), "md5": "", "size": 0}
        shop.sell([asdict(file) | known], f"set-{index}")
    assert shop.prepare("remotes").code == 0
    for _, file in archives:
        assert all((shop.root / path).exists() for path in file.provides or (file.place,))
    images = [path for path, content in shop.tree().items() if content == IMAGE]
    assert len(images) == len(MEMBERS)
