"""The public sets: suites, folder names of CoOp, CLIP-LoRA and torchvision, counts, stamps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fsbench_datasets.catalog import PUBLIC_SETS, public_set

from fewshot_bench.api.dataset import all_items
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import Preparable, Stamped
from fewshot_bench.splits.published import published_splits
from tests.support.dataset_trees import JPEG, PATHS, open_set, write_images, write_set, write_split
from tests.support.helpers import fsbench

NAMES = (
    "imagenet",
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "fgvc_aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
# Image folders of CoOp, CLIP-LoRA and torchvision, and where each keeps the split file.
LAYOUTS = {
    "caltech101": [
        ("caltech-101/101_ObjectCategories", "caltech-101"),
        ("Caltech101/101_ObjectCategories", "Caltech101"),
        ("caltech101/101_ObjectCategories", "caltech101"),
    ],
    "oxford_pets": [
        ("oxford_pets/images", "oxford_pets"),
        ("OxfordPets/images", "OxfordPets"),
        ("oxford-iiit-pet/images", "oxford-iiit-pet"),
    ],
    "stanford_cars": [("stanford_cars", "stanford_cars"), ("StanfordCars", "StanfordCars")],
    "oxford_flowers": [
        ("oxford_flowers/jpg", "oxford_flowers"),
        ("Flower102/jpg", "Flower102"),
        ("flowers-102/jpg", "flowers-102"),
    ],
    "food101": [("food-101/images", "food-101"), ("Food101/images", "Food101")],
    "sun397": [("sun397/SUN397", "sun397"), ("SUN397/SUN397", "SUN397"), ("SUN397", "")],
    "dtd": [("dtd/images", "dtd"), ("DTD/images", "DTD"), ("dtd/dtd/images", "dtd/dtd")],
    "eurosat": [("eurosat/2750", "eurosat"), ("eurosat/EuroSAT_RGB", "eurosat")],
    "ucf101": [("ucf101/UCF-101-midframes", "ucf101"), ("UCF101/UCF-101-midframes", "UCF101")],
}
CASES = [(name, *layout) for name, layouts in LAYOUTS.items() for layout in layouts]


def test_suites() -> None:
    suites = registry().datasets.suites()
    assert suites["all"] == list(NAMES)
    assert suites["fine-grained"] == [
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
    ]
    assert suites["imagenet-ood"] == [
        "imagenet-v2",
        "imagenet-sketch",
        "imagenet-a",
        "imagenet-r",
    ]
    assert registry().expand_datasets(["fine-grained", "dtd"])[-2:] == ["fgvc_aircraft", "dtd"]


def test_catalog_agrees_with_published_digests() -> None:
    assert {e.name: (e.split_file, e.classes) for e in PUBLIC_SETS if e.split_file} == {
        name: (split.file, split.classes) for name, split in published_splits().items()
    }


@pytest.mark.parametrize("name", [entry.name for entry in PUBLIC_SETS])
def test_every_entry_is_complete(name: str, data: Path) -> None:
    entry, dataset = public_set(name), open_set(name)
    card = dataset.card()
    assert (card.name, card.counts, card.revision, card.classnames) == (name, {}, "", ())
    assert card.expected_counts == entry.counts
    assert card.custom_templates[0].count("{}") == 1
    assert card.license
    assert all(source.startswith("https://") for source in card.sources)
    assert isinstance(dataset, Stamped)
    assert isinstance(dataset, Preparable)
    assert dataset.recipe().files


@pytest.mark.parametrize(("name", "images", "split"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("place", ["beside", "root", "splits", "in the images", "above the images"])
def test_layouts(data: Path, name: str, images: str, split: str, place: str) -> None:
    folders = {
        "beside": split,
        "root": "",
        "splits": "splits",
        "in the images": images,
        "above the images": str(Path(images).parent),
    }
    write_set(data, name, images, folders[place])
    dataset = open_set(name)
    assert {role: len(items) for role, items in dataset.items().items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }
    card = dataset.card()
    assert card.classnames == ("beaver", "ant")
    assert [item.label for item in dataset.items()["train"]] == [1, 1, 0, 0]
    assert card.folder == str(data / images)
    assert all(dataset.read(item) == JPEG for _, item in all_items(dataset))


@pytest.mark.parametrize("name", PATHS)
def test_split_file_and_images_are_found_independently(data: Path, name: str) -> None:
    images, split = LAYOUTS[name][-1][0], LAYOUTS[name][0][1]
    write_set(data, name, images, split)
    assert open_set(name).card().folder == str(data / images)
    assert len(open_set(name).items()["test"]) == 2


def test_split_file_and_images_may_lie_below_different_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path / "one" / "splits", "dtd")
    write_images(tmp_path / "two" / "dtd" / "dtd" / "images", "dtd")
    monkeypatch.setenv("FSBENCH_DATA", os.pathsep.join(str(tmp_path / n) for n in ("one", "two")))
    assert open_set("dtd").card().folder == str(tmp_path / "two" / "dtd" / "dtd" / "images")


@pytest.mark.parametrize(("name", "images", "split"), CASES, ids=lambda value: str(value))
def test_a_root_may_be_the_folder_of_the_set_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, images: str, split: str
) -> None:
    write_set(tmp_path, name, images, split or images)
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / images.partition("/")[0]))
    assert open_set(name).card().folder == str(tmp_path / images)


def test_the_folder_that_holds_most_images_is_taken(data: Path) -> None:
    write_set(data, "dtd", "dtd/dtd/images")
    write_images(data / "dtd" / "images", "dtd")
    first = open_set("dtd").items()["val"][0]
    (data / "dtd" / "images" / first.id).unlink()
    assert open_set("dtd").card().folder == str(data / "dtd" / "dtd" / "images")
    assert len(open_set("dtd").items()["val"]) == 2


def test_counts_are_held_against_the_catalog(data: Path) -> None:
    write_set(data, "eurosat")
    shown = fsbench("show", "eurosat")
    assert shown.code == 0
    assert "4 images (the published set has 13500: this copy differs)" in shown.out
    assert (
        "this is not the published split: 2 classes and 4/2/2 images (train/val/test), published "
        "are 10 and 13500/5400/8100" in shown.out
    )
    assert "NOT the published lists" in shown.out


def test_a_stamp_changes_with_its_image_only(data: Path) -> None:
    write_set(data, "eurosat")
    dataset = open_set("eurosat")
    one, other = dataset.items()["train"][:2]
    before, untouched = dataset.stamp(one), dataset.stamp(other)
    assert before is not None
    assert before.size == len(JPEG)
    path = data / "eurosat" / "2750" / one.id
    path.write_bytes(JPEG + b"\n")
    assert dataset.stamp(one) != before
    assert dataset.stamp(other) == untouched
    path.unlink()
    assert dataset.stamp(one) is None
