"""Image folders: class folders, role folders, and the split that is made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.registry import registry

SPLIT_NAME = "fsbench-split.json"


def add(root: Path, folder: str, *names: str) -> None:
    """Write images, those of distinct names distinct."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        red, green, blue, *_ = hashlib.sha256(f"{folder}/{name}".encode()).digest()
        Image.new("RGB", (4, 4), (red, green, blue)).save(root / folder / name, "PNG")


def numbered(count: int) -> list[str]:
    return [f"{number:02d}.png" for number in range(count)]


def add_classes(root: Path, *names: str) -> None:
    """Add the classes `a` and `b` with the same image names."""
    for folder in ("a", "b"):
        add(root, folder, *names)


def store() -> Path:
    return Path(os.environ["RESULTS"])


def open_folder(root: Path, **data: Any) -> Any:
    return registry().dataset(f"folder:{root}", data, store())


def kept() -> list[Path]:
    """Splits kept in the result store."""
    return sorted(store().glob("splits/made/*.json"))


def ids(root: Path, **data: Any) -> dict[str, list[str]]:
    """Image names by role, after keeping the split as a run does."""
    dataset = open_folder(root, **data)
    pools = dataset.items()
    dataset.keep_split()
    return {role: [item.id for item in items] for role, items in pools.items()}


@pytest.fixture(autouse=True)
def _data_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULTS", str(tmp_path_factory.mktemp("results")))


def test_role_folders(tmp_path: Path) -> None:
    for role in ("train", "validation", "test"):
        add(tmp_path, f"{role}/dog", "a.png")
        add(tmp_path, f"{role}/Cat", "b.png")
    dataset = open_folder(tmp_path)
    assert ids(tmp_path)["val"] == ["validation/Cat/b.png", "validation/dog/a.png"]
    assert dataset.card().classnames == ("Cat", "dog")
    assert dataset.card().counts == {"train": 2, "val": 2, "test": 2}
    assert dataset.read(dataset.items()["test"][0])[:4] == b"\x89PNG"
    assert (dataset.keep_split(), kept()) == (None, [])


def test_validation_is_held_out_from_train(tmp_path: Path) -> None:
    add(tmp_path, "train/a", *numbered(10))
    add(tmp_path, "train/b", *numbered(2))
    add(tmp_path, "train/c", *numbered(1))
    add(tmp_path, "test/a", "x.png")
    pools = ids(tmp_path)
    per_class = {name: sum(f"/{name}/" in id for id in pools["val"]) for name in "abc"}
    assert per_class == {"a": 2, "b": 1, "c": 0}
    assert not set(pools["train"]) & set(pools["val"])
    assert len(pools["train"]) + len(pools["val"]) == 13
    assert pools == ids(tmp_path)


def test_class_folders_are_split_once_and_added_images_change_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        add(tmp_path, name, *numbered(10))
    before = ids(tmp_path)
    assert {role: len(items) for role, items in before.items()} == {
        "train": 10,
        "val": 4,
        "test": 6,
    }
    revision = open_folder(tmp_path).card().revision
    add(tmp_path, "one", "new.png")
    add(tmp_path, "three", *numbered(5))
    assert ids(tmp_path) == before
    assert open_folder(tmp_path).card().revision == revision
    (path,) = kept()
    assert list(json.loads(path.read_text())) == ["train", "val", "test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


@pytest.mark.parametrize("count", [3, 4, 5, 7])
def test_small_classes_have_an_image_in_every_pool(tmp_path: Path, count: int) -> None:
    add_classes(tmp_path, *numbered(count))
    pools = ids(tmp_path)
    for name in "ab":
        assert all(any(id.startswith(name) for id in pool) for pool in pools.values())
    every = [f"{folder}/{name}" for folder in "ab" for name in numbered(count)]
    assert sorted(chain(*pools.values())) == every


def test_the_split_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for place, names in (("x", numbered(9)), ("y", numbered(9)[::-1])):
        add_classes(tmp_path / place, *names)
    assert ids(tmp_path / "x") == ids(tmp_path / "y")


def test_nothing_is_written_before_a_run_keeps_it(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(6))
    dataset = open_folder(tmp_path)
    assert "the first run keeps it" in dataset.card().notes[0]
    assert (kept(), {path.name for path in tmp_path.iterdir()}) == ([], {"a", "b"})
    assert dataset.keep_split() == kept()[0]
    assert f"kept in {kept()[0]}" in open_folder(tmp_path).card().notes[0]


def test_a_split_beside_the_data_goes_first(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(6))
    before = open_folder(tmp_path)
    assert before.keep_split(beside=True) == tmp_path / SPLIT_NAME
    add(tmp_path, "a", "new.png")
    assert ids(tmp_path) == {role: [i.id for i in p] for role, p in before.items().items()}
    assert kept() == []


def test_nowhere_to_keep_the_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_classes(tmp_path / "set", *numbered(6))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESULTS", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"cannot be kept at .*choose another --store"):
        open_folder(tmp_path / "set").keep_split()
    (tmp_path / "set").chmod(0o555)
    try:
        with pytest.raises(UsageError, match="leave --keep-split out"):
            open_folder(tmp_path / "set").keep_split(beside=True)
    finally:
        (tmp_path / "set").chmod(0o755)


def test_unusual_names_and_what_is_ignored(tmp_path: Path) -> None:
    add(tmp_path, "train/grüne Äpfel", "Bild 1.PNG", "zwei.JpEg", "a\u202fb.webp", ".hidden.png")
    add(tmp_path, "test/grüne Äpfel", "x.tiff")
    add(tmp_path, "train/Öl", "x.png")
    add(tmp_path, "train/.cache", "x.png")
    (tmp_path / "train" / "grüne Äpfel" / "notes.txt").touch()
    (tmp_path / "train" / "grüne Äpfel" / "linked.png").symlink_to(
        tmp_path / "test" / "grüne Äpfel" / "x.tiff"
    )
    pools = ids(tmp_path)
    names = {Path(id).name for id in pools["train"] + pools["val"] if "Äpfel" in id}
    assert names == {"Bild 1.PNG", "zwei.JpEg", "a\u202fb.webp", "linked.png"}
    assert open_folder(tmp_path).card().classnames == ("grüne Äpfel", "Öl")


def test_unusual_names_survive_the_stored_split(tmp_path: Path) -> None:
    add(tmp_path, "grüne Äpfel", "Bild 1.PNG", "a\u202fb.webp", "c.png")
    add(tmp_path, "Öl", *numbered(3))
    assert ids(tmp_path) == ids(tmp_path)
    dataset = open_folder(tmp_path)
    assert all(dataset.read(item) for items in dataset.items().values() for item in items)


def test_a_listed_image_that_is_gone(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(6))
    ids(tmp_path)
    (tmp_path / "a" / "03.png").unlink()
    with pytest.raises(DataMissingError, match=r"'a/03\.png' is listed in"):
        ids(tmp_path)


def test_a_damaged_stored_split_is_never_replaced_silently(tmp_path: Path) -> None:
    add(tmp_path, "a", *numbered(6))
    (tmp_path / SPLIT_NAME).write_text("{")
    with pytest.raises(DataMissingError, match="cannot be read as JSON"):
        ids(tmp_path)


def test_paths_that_are_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataMissingError, match="is a file, expected a folder"):
        open_folder(tmp_path / "file")
    with pytest.raises(DataMissingError, match="does not exist"):
        open_folder(tmp_path / "nowhere")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="no class folders in"):
        ids(tmp_path)
    add(tmp_path, "empty")
    with pytest.raises(DataMissingError, match="has no images in it"):
        ids(tmp_path)
    add(tmp_path, "empty", "a.png")
    with pytest.raises(UsageError, match="has 1 class: expected 2 or more"):
        ids(tmp_path)
    add(tmp_path, "train/a", "a.png")
    with pytest.raises(UsageError, match="train/ but no test/"):
        ids(tmp_path)
    add(tmp_path, "test/b", "a.png")
    with pytest.raises(UsageError, match="class 'b' of the test images has no train images"):
        ids(tmp_path)
    for index in range(7):
        add(tmp_path / "bare", f"{index}")
    with pytest.raises(DataMissingError, match=r"6 more: 1, .* and 1 more"):
        ids(tmp_path / "bare")


def test_two_validation_folders(tmp_path: Path) -> None:
    for role in ("train", "val", "valid", "test"):
        add(tmp_path, f"{role}/a", "a.png")
    with pytest.raises(UsageError, match="val and valid: expected one"):
        ids(tmp_path)


def test_a_name_with_a_control_character(tmp_path: Path) -> None:
    add(tmp_path, "a", "x\ny.png", *numbered(5))
    with pytest.raises(UsageError, match="without control characters"):
        ids(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "only", *numbered(6))
    with pytest.raises(UsageError, match="has 1 class: expected 2 or more"):
        ids(tmp_path)
    assert kept() == []


def test_another_holdout_is_another_split(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(20))
    usual, other = ids(tmp_path), ids(tmp_path, holdout=0.5)
    assert [len(usual[role]) for role in ("train", "val", "test")] == [20, 8, 12]
    assert [len(other[role]) for role in ("train", "val", "test")] == [12, 8, 20]
    assert other["val"] == usual["val"]
    assert ids(tmp_path, holdout=0.3) == usual
    other_file, usual_file = kept()
    assert other_file.name == f"{usual_file.stem}-holdout-0.5.json"
    assert "split 30/20/50 per class" in open_folder(tmp_path, holdout=0.5).card().notes[0]


@pytest.mark.parametrize("holdout", [0, 1, 0.8, -0.3, float("nan")])
def test_shares_that_leave_a_pool_empty(tmp_path: Path, holdout: float) -> None:
    add_classes(tmp_path, *numbered(20))
    with pytest.raises(UsageError, match=r"above 0 and below 0\.8"):
        ids(tmp_path, holdout=holdout)


def test_every_class_keeps_a_train_image(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(3))
    assert {role: len(pool) for role, pool in ids(tmp_path, holdout=0.79).items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }


def test_test_images_out_of_train(tmp_path: Path) -> None:
    for name in "ab":
        add(tmp_path, f"train/{name}", *numbered(10))
        add(tmp_path, f"val/{name}", "x.png")
    pools = ids(tmp_path, holdout=0.3)
    assert [len(pools[role]) for role in ("train", "val", "test")] == [14, 2, 6]
    assert all(id.startswith("train/") for id in pools["test"])
    add(tmp_path, "test/a", "y.png")
    with pytest.raises(UsageError, match="comes with its own test images; leave --holdout out"):
        ids(tmp_path, holdout=0.3)


def test_test_images_alone_can_be_evaluated_on(tmp_path: Path) -> None:
    for name in "ab":
        add(tmp_path, f"test/{name}", "x.png")
    assert ids(tmp_path) == {"train": [], "val": [], "test": ["test/a/x.png", "test/b/x.png"]}


def test_what_came_later_is_named(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(10))
    ids(tmp_path)
    assert len(open_folder(tmp_path).card().notes) == 1
    add(tmp_path, "a", "new.png")
    add(tmp_path, "three", *numbered(5))
    note = open_folder(tmp_path).card().notes[1]
    assert note.startswith(
        "images that came later are not used (6, with the whole of three): a/new.png"
    )
    assert "three/00.png" in note
    assert "and 1 more" in note
    assert f"delete {kept()[0]} to have a new split made" in note


def test_pipes_are_no_images_and_blank_folders_no_classes(tmp_path: Path) -> None:
    add_classes(tmp_path, *numbered(8))
    os.mkfifo(tmp_path / "a" / "pipe.png")
    ids = [item.id for items in open_folder(tmp_path).items().values() for item in items]
    assert len(ids) == 16
    (tmp_path / "b").rename(tmp_path / " ")
    with pytest.raises(UsageError, match="blank name"):
        open_folder(tmp_path).items()
