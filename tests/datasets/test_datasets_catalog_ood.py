"""ImageNet's four variants: test images only, in folders by synset or by class number."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from fewshot_bench import DataMissingError
from tests.support.dataset_trees import JPEG, SYNSETS, open_set, put, write_imagenet

PLACES = [
    ("imagenet-v2", "imagenetv2/imagenetv2-matched-frequency-format-val"),
    ("imagenet-v2", "imagenetv2-matched-frequency-format-val"),
    ("imagenet-sketch", "imagenet-sketch/images"),
    ("imagenet-sketch", "imagenet-sketch/sketch"),
    ("imagenet-sketch", "imagenet-sketch"),
    ("imagenet-sketch", "sketch"),
    ("imagenet-a", "imagenet-adversarial/imagenet-a"),
    ("imagenet-a", "imagenet-a"),
    ("imagenet-r", "imagenet-rendition/imagenet-r"),
    ("imagenet-r", "imagenet-r"),
]
SIZES = {
    "imagenet-v2": (1000, 10000),
    "imagenet-sketch": (1000, 50889),
    "imagenet-a": (200, 7500),
    "imagenet-r": (200, 30000),
}


def write(base: Path, name: str) -> Path:
    """Class folders with two images each, and a file that the authors put beside them."""
    for folder in ("296", "1", "0") if name == "imagenet-v2" else SYNSETS:
        put(base / folder / "b.jpg")
        put(base / folder / "a.jpeg")
    put(base / "README.txt")
    return base


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_places(data: Path, name: str, place: str) -> None:
    write(data / place, name)
    dataset = open_set(name)
    pools, card = dataset.items(), dataset.card()
    assert set(pools) == {"train", "test"}
    assert pools["train"] == ()
    folders = ("0", "1", "296") if name == "imagenet-v2" else SYNSETS
    assert [item.id for item in pools["test"]] == [
        f"{folder}/{file}" for folder in folders for file in ("a.jpeg", "b.jpg")
    ]
    assert [item.label for item in pools["test"]] == [0, 0, 1, 1, 2, 2]
    assert card.class_ids == SYNSETS
    assert card.classnames == ("tench", "goldfish", "polar bear")
    assert card.folder == str(data / place)
    assert card.custom_templates == ("a photo of a {}.",)
    classes, images = SIZES[name]
    assert card.expected_counts == {"train": 0, "test": images}
    assert any(f"(train/test), published are {classes} and 0/{images};" in n for n in card.notes)
    assert dataset.read(pools["test"][0]) == JPEG
    assert dataset.stamp(pools["test"][0]).size == len(JPEG)


def test_class_numbers_are_no_text(data: Path) -> None:
    base = data / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for number in (10, 9, 999, 100):
        put(base / str(number) / "a.jpeg")
    dataset = open_set("imagenet-v2")
    assert [i.id for i in dataset.items()["test"]] == [f"{n}/a.jpeg" for n in (9, 10, 100, 999)]
    assert dataset.card().classnames[-1] == "toilet paper"


def test_all_share_class_ids_with_imagenet(data: Path) -> None:
    write_imagenet(data / "imagenet")
    for name, place in PLACES[::4]:
        write(data / place, name)
        assert open_set(name).card().class_ids == open_set("imagenet").card().class_ids


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_folders_that_are_no_classes(data: Path, name: str, place: str) -> None:
    base = write(data / place, name)
    put(base / "1000" / "a.jpg")
    with pytest.raises(DataMissingError, match="holds the folder '1000': expected class folders"):
        open_set(name).items()
    put(base / "1000" / "a.jpg").unlink()
    with pytest.raises(DataMissingError, match="1000 has no images directly in it"):
        open_set(name).items()


@pytest.mark.parametrize("name", SIZES)
def test_missing(data: Path, name: str) -> None:
    with pytest.raises(DataMissingError, match=f"'{name}': set FSBENCH_DATA.*no images") as caught:
        open_set(name).items()
    assert f"fsbench data prepare {name}" in str(caught.value)


def test_another_name(data: Path) -> None:
    write(data / "ImageNet-A", "imagenet-a")
    right = data / "imagenet-a"
    with pytest.raises(DataMissingError, match=f"another name than expected: rename it to {right}"):
        open_set("imagenet-a").items()


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("imagenet-a/imagenet-a", "unpacked one level too deep: move the content of"),
        (
            "imagenet-adversarial/imagenet-a/imagenet-a",
            "unpacked one level too deep: move the content",
        ),
        ("imagenetA/imagenet-a", "they are in .*/imagenetA/imagenet-a: move its content to"),
        ("imagenetA", "has another name than expected: rename it to"),
    ],
)
def test_what_is_advised_mends_it(data: Path, place: str, step: str) -> None:
    write(data / place, "imagenet-a")
    with pytest.raises(DataMissingError, match=step) as caught:
        open_set("imagenet-a").items()
    target = re.search(r" to (\S+?)[;)]", str(caught.value))
    assert target is not None
    aim = Path(target[1])
    aim.mkdir(parents=True, exist_ok=True)
    for folder in sorted((data / place).iterdir()):
        folder.rename(aim / folder.name)
    if (data / place).is_dir():
        (data / place).rmdir()
    assert open_set("imagenet-a").items()["test"]


def test_a_folder_that_holds_nothing_is_not_to_be_renamed(data: Path) -> None:
    (data / "imagenetA").mkdir(parents=True)
    with pytest.raises(DataMissingError, match="no images: expected") as caught:
        open_set("imagenet-a").items()
    assert "rename" not in str(caught.value)


def test_names_of_the_thousand_classes() -> None:
    text = files("fsbench_datasets").joinpath("imagenet_classes.txt").read_text("utf-8")
    pairs = [line.split(" ", 1) for line in text.splitlines()]
    synsets, names = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert synsets == sorted(set(synsets))
    assert (len(names), len(set(names))) == (1000, 998)
    assert {name for name in names if names.count(name) > 1} == {"missile", "sunglasses"}
