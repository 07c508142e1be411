"""Errors of public sets with missing, damaged or misnamed parts name the step that fixes them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsbench_datasets.catalog import public_set

from fewshot_bench import DataMissingError
from tests.support.dataset_trees import (
    open_set,
    put,
    split_of,
    write_images,
    write_set,
    write_split,
)
from tests.support.helpers import fsbench


def said(name: str) -> str:
    """Message of the error; the command line must show it on one line with exit code 3."""
    with pytest.raises(DataMissingError) as caught:
        open_set(name).items()
    message = str(caught.value)
    assert message.startswith(f"data set '{name}': ")
    assert "\n" not in message
    shown = fsbench("show", name)
    assert shown.code == 3
    assert "Traceback" not in shown.err
    return message


@pytest.mark.parametrize("name", ["caltech101", "sun397", "ucf101"])
def test_nothing_is_there(data: Path, name: str) -> None:
    message, entry = said(name), public_set(name)
    assert f"no {entry.split_file} in {data / entry.folders[0]}" in message
    assert f"no images folder (expected one of {data / entry.images[0]}" in message
    assert f"fsbench data prepare {name}" in message
    assert f"fsbench splits import FILE --dataset {name}" in message
    assert f"set FSBENCH_DATA to the folder that holds {entry.folders[0]}/" in message


def test_the_data_root_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / "away"))
    message = said("dtd")
    assert message.startswith("data set 'dtd': set FSBENCH_DATA to the folder that holds dtd/ (")
    assert f"{tmp_path / 'away'}, which does not exist" in message
    assert "fsbench data prepare dtd" in message


def test_only_the_split_file_is_missing(data: Path) -> None:
    write_images(data / "dtd" / "dtd" / "images", "dtd")
    message = said("dtd")
    assert "no split_zhou_DescribableTextures.json" in message
    assert "fsbench splits import FILE --dataset dtd" in message
    assert "images folder" not in message


def test_the_split_file_lies_elsewhere(data: Path) -> None:
    write_set(data, "dtd", split="downloads/lists")
    assert f"it is in {data / 'downloads' / 'lists'}: move it to {data / 'dtd'}" in said("dtd")


@pytest.mark.parametrize("split", ["below/more/dtd", "splits"])
def test_the_data_root_is_a_folder_too_high(data: Path, split: str) -> None:
    write_set(data, "dtd", "below/more/dtd/images", split)
    assert f"set FSBENCH_DATA to {data / 'below' / 'more'}; otherwise" in said("dtd")


def test_the_default_root_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "that holds dtd/ (it is data, which does not exist)" in said("dtd")
    write_set(tmp_path / "data", "dtd", "x", "y")
    assert f"it is in {Path('data', 'y')}: move it to {Path('data', 'dtd')}; otherwise" in said(
        "dtd"
    )


def test_the_split_file_is_damaged(data: Path) -> None:
    write_set(data, "dtd")
    path = data / "dtd" / "split_zhou_DescribableTextures.json"
    path.write_bytes(path.read_bytes()[:-20])
    message = said("dtd")
    assert f"split file {path} cannot be read as JSON" in message
    assert "delete it and run fsbench data prepare dtd" in message
    assert "fsbench splits import FILE --dataset dtd" in message


def test_no_listed_image_is_in_the_folder(data: Path) -> None:
    write_split(data / "dtd", "dtd")
    base = put(data / "dtd" / "images" / "readme.txt").parent
    assert f"no images ['{split_of('dtd')['train'][0][0]}', " in said("dtd")
    assert f"] in {base} (" in said("dtd")


def test_only_the_images_are_missing(data: Path) -> None:
    write_split(data / "food-101", "food101")
    message = said("food101")
    assert f"no images folder: expected one of {data / 'food-101' / 'images'}" in message
    assert "fsbench data prepare food101 fetches them" in message


@pytest.mark.parametrize(
    ("name", "images", "wrong", "right"),
    [
        ("caltech101", "Caltech-101/101_ObjectCategories", "Caltech-101", "caltech-101"),
        ("food101", "food101/images", "food101", "food-101"),
        ("oxford_flowers", "OxfordFlowers/jpg", "OxfordFlowers", "oxford_flowers"),
        ("dtd", "DescribableTextures/images", "DescribableTextures", "dtd"),
        (
            "ucf101",
            "ucf101/ucf_101_midframes",
            "ucf101/ucf_101_midframes",
            "ucf101/UCF-101-midframes",
        ),
    ],
)
@pytest.mark.parametrize("with_split", [True, False])
def test_a_folder_has_another_name(
    data: Path, name: str, images: str, wrong: str, right: str, with_split: bool
) -> None:
    write_images(data / images, name)
    if with_split:
        write_split(data, name)
    message = said(name)
    assert f"{data / wrong} has another name than expected: rename it to {data / right}" in message
    assert f"otherwise fsbench data prepare {name}" in message
    write_split(data, name)
    (data / wrong).rename(data / right)
    assert len(open_set(name).items()["train"]) == 4


def test_images_one_level_too_deep_in_their_folder(data: Path) -> None:
    write_set(data, "dtd", "dtd/images/images")
    deep, right = data / "dtd" / "images" / "images", data / "dtd" / "images"
    assert f"one level too deep: move the content of {deep} to {right}" in said("dtd")


def test_a_whole_set_one_level_too_deep(data: Path) -> None:
    write_set(data, "caltech101", "caltech-101/caltech-101/101_ObjectCategories")
    message = said("caltech101")
    deep = data / "caltech-101" / "caltech-101" / "101_ObjectCategories"
    right = data / "caltech-101" / "101_ObjectCategories"
    assert f"they are in {deep}: move its content to {right}" in message


def doubled(folder: Path) -> None:
    """Move a folder's content into a folder of the same name inside it."""
    beside = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    beside.rename(folder / folder.name)


@pytest.mark.parametrize("parts", [["cars_train"], ["cars_train", "cars_test"]])
def test_a_part_one_level_too_deep(data: Path, parts: list[str]) -> None:
    cars = write_set(data, "stanford_cars") / "stanford_cars"
    for part in parts:
        doubled(cars / part)
    deep, right = cars / "cars_train" / "cars_train", cars / "cars_train"
    message = said("stanford_cars")
    assert f"one level too deep: move the content of {deep} to {right}" in message
    if len(parts) == 1:
        assert "6 of 8 listed images are not in" in message


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [remove, replace_by_folder])
def test_some_listed_images_are_missing(data: Path, harm: Callable[[Path], None]) -> None:
    base = write_set(data, "oxford_pets") / "oxford_pets" / "images"
    gone = [entry[0] for role in ("train", "val") for entry in split_of("oxford_pets")[role][:2]]
    for relative in gone:
        harm(base / relative)
    message = said("oxford_pets")
    assert f"4 of 8 listed images are not in {base}: {', '.join(gone)} (" in message
    assert f"or move {base} away and run fsbench data prepare oxford_pets" in message


@pytest.mark.parametrize("folder", ["images/ant/", "images/"])
def test_a_folder_that_may_not_be_entered_is_no_missing_image(
    data: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    write_set(data, "dtd")
    stat, locked = os.stat, f"{data}/dtd/{folder}"

    def refused(path: Any, *args: Any, **others: Any) -> os.stat_result:
        if str(path).startswith(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **others)

    monkeypatch.setattr(os, "stat", refused)
    with pytest.raises(PermissionError):
        open_set("dtd").items()
    words = ("--backbone", "tiny", "--dry-run", "--store", data / "store")
    run = fsbench("run", "-m", "zero-shot", "-d", "dtd", *words)
    assert (run.code, run.err.startswith(f"error: '{locked}")) == (3, True)
    assert run.err.endswith(": permission denied; make it readable for this user\n")
    table = fsbench("reproduce", "clip-lora-table3", "-d", "dtd", "-m", "zero-shot", *words)
    assert f"left out: '{locked}" in table.err


def test_missing_images_of_any_folder_with_a_split(data: Path) -> None:
    write_set(data, "dtd")
    shutil.rmtree(data / "dtd" / "images" / "ant")
    with pytest.raises(DataMissingError, match=r"4 of 8 listed images are not in .*split file"):
        open_set(f"coop:{data / 'dtd'}").items()


def test_a_run_is_refused_with_the_step(data: Path) -> None:
    put(data / "dtd" / "images" / "readme.txt")
    chosen = ("-m", "zero-shot", "-d", "dtd", "--shots", "1", "--seeds", "1")
    shown = fsbench("run", *chosen, "--store", data / "store")
    assert shown.code == 3
    assert "fsbench data prepare dtd" in shown.err
