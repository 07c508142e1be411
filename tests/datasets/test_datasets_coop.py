"""Data sets in CoOp's layout: search paths, and errors in split files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fewshot_bench import DataMissingError, Dataset, UsageError
from fewshot_bench.api.dataset import all_items
from fewshot_bench.api.registry import registry

SPLIT = {
    "train": [["zebra/a 1.JPG", 1, "zebra_skin"], ["äpfel/b.jpg", 0, "äpfel"]],
    "val": [["äpfel/c.jpg", 0, "äpfel"]],
    "test": [["zebra/d.jpg", 1, "zebra_skin"]],
}
DTD = "split_zhou_DescribableTextures.json"


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path, "PNG")


def write_set(folder: Path, images: str = "images", name: str = DTD, split: Any = SPLIT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(split), "utf-8")
    for role in ("train", "val", "test"):
        for relative, *_ in SPLIT[role]:
            write_image(folder / images / str(relative))
    return folder


def open_set(name: str) -> Any:
    return registry().dataset(name)


def test_lists_keep_the_order_of_the_file_and_names_go_by_label(data: Path) -> None:
    write_set(data / "dtd")
    dataset = open_set("dtd")
    card = dataset.card()
    assert isinstance(dataset, Dataset)
    assert [item.id for item in dataset.items()["train"]] == ["zebra/a 1.JPG", "äpfel/b.jpg"]
    assert card.classnames == ("äpfel", "zebra_skin")
    assert card.counts == {"train": 2, "val": 1, "test": 1}
    assert card.custom_templates == ("{} texture.",)
    assert card.folder == str(data / "dtd" / "images")
    for _, item in all_items(dataset):
        Image.open(io.BytesIO(dataset.read(item))).load()


def test_an_image_that_vanished_is_an_os_error(data: Path) -> None:
    write_set(data / "dtd")
    dataset = open_set("dtd")
    item = dataset.items()["test"][0]
    (data / "dtd" / "images" / item.id).unlink()
    with pytest.raises(FileNotFoundError):
        dataset.read(item)


def test_revision_follows_the_lists(data: Path) -> None:
    write_set(data / "dtd")
    before = open_set("dtd").card().revision
    assert open_set("dtd").card().revision == before
    write_set(data / "dtd", split=SPLIT | {"test": [["zebra/e.jpg", 1, "zebra_skin"]]})
    assert open_set("dtd").card().revision != before


BAD = [
    ("{", "cannot be read as JSON"),
    ([], "has list, expected an object"),
    ({"train": []}, r"has keys 'train'"),
    (SPLIT | {"val": {}}, "has dict under 'val'"),
    (SPLIT | {"val": [["a.jpg", 0]]}, "as entry 0 of 'val'"),
    (SPLIT | {"val": [["a.jpg", "0", "äpfel"]]}, "as entry 0 of 'val'"),
    (SPLIT | {"val": [["a.jpg", True, "äpfel"]]}, "as entry 0 of 'val'"),
    (SPLIT | {"val": [["a\n.jpg", 0, "äpfel"]]}, "as entry 0 of 'val'"),
    (SPLIT | {"val": [["a.jpg", -1, "äpfel"]]}, "negative label -1"),
    (SPLIT | {"val": [["a.jpg", 0, "pears"]]}, "label 0 two names, 'äpfel' and 'pears'"),
    (SPLIT | {"val": [["a.jpg", 2, "pears"]]}, "class 2 'pears' in no train image"),
    (SPLIT | {"val": [["zebra/d.jpg", 1, "zebra_skin"]]}, "twice, in 'val' and 'test'"),
    (
        SPLIT | {"val": [["./zebra/d.jpg", 1, "zebra_skin"]]},
        "'zebra/d.jpg' twice, in 'val' and 'test'",
    ),
    (
        SPLIT | {"test": [["zebra//d.jpg", 1, "zebra_skin"], ["zebra/d.jpg", 1, "zebra_skin"]]},
        "'zebra/d.jpg' twice, in 'test' and 'test'",
    ),
    (
        SPLIT | {"test": [["äpfel/./c.jpg", 0, "äpfel"]]},
        r"'äpfel/c.jpg' twice, in 'val' and 'test' \(as 'äpfel/./c.jpg'\)",
    ),
    (SPLIT | {"val": [["../a.jpg", 0, "äpfel"]]}, "leaves the folder"),
    (SPLIT | {"val": [["/a.jpg", 0, "äpfel"]]}, "leaves the folder"),
    (SPLIT | {"val": [["C:\\a.jpg", 0, "äpfel"]]}, "leaves the folder"),
    ({"train": [], "val": [], "test": []}, "has no train images"),
    ({"train": [["a.jpg", 1, "a"]], "val": [], "test": []}, "no image of label 0"),
]


@pytest.mark.parametrize(("split", "said"), BAD)
def test_bad_split_files(data: Path, split: Any, said: str) -> None:
    (data / "dtd").mkdir()
    text = split if isinstance(split, str) else json.dumps(split)
    (data / "dtd" / DTD).write_text(text, "utf-8")
    with pytest.raises(DataMissingError, match=said):
        open_set("dtd").items()
    with pytest.raises(DataMissingError, match=said):
        open_set("dtd").card()


def test_coop_family_takes_any_folder(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "my set", "pictures", "split_mine.json")
    dataset = open_set(f"coop:{folder}")
    assert len(dataset.items()["train"]) == 2
    card = dataset.card()
    assert (card.name, card.title) == (f"coop:{folder}", "my set")
    assert card.custom_templates == ("a photo of a {}.",)
    assert card.folder == str(folder / "pictures")


def test_coop_family_knows_catalog_files_and_images_beside_them(tmp_path: Path) -> None:
    card = open_set(f"coop:{write_set(tmp_path / 'x', '.')}").card()
    assert (card.title, card.custom_templates) == ("Describable Textures", ("{} texture.",))


def test_coop_family_errors(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="does not exist"):
        open_set(f"coop:{tmp_path / 'nowhere'}")
    with pytest.raises(DataMissingError, match=r"no split_zhou_\*.json"):
        open_set(f"coop:{tmp_path}")
    (tmp_path / "split_a.json").write_text("{}")
    (tmp_path / "split_b.json").write_text("{}")
    with pytest.raises(UsageError, match=r"found split_a\.json, split_b\.json"):
        open_set(f"coop:{tmp_path}")
    with pytest.raises(DataMissingError, match="is a file"):
        open_set(f"coop:{tmp_path / 'split_a.json'}")


def test_a_split_file_that_may_not_be_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    write_set(data / "dtd")
    monkeypatch.setattr("fewshot_bench.api.split_file.read_regular_text", refused)
    with pytest.raises(DataMissingError, match=r"cannot be read \(Permission denied\): expected a"):
        open_set("dtd").card()
