"""`fsbench predict --sort-into`: every picture arrives once, nothing is overwritten or escapes."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fewshot_bench as fb
from fewshot_bench.plugins.models.sorting import Sorter
from fewshot_bench.store.kept_models import read_model, write_model
from fewshot_bench.utils.files import TEMPORARY
from fewshot_bench.utils.processes import this_machine
from tests.support.helpers import Result, fsbench, image_folder, save_image
from tests.support.models import zero_shot_model

CLASSES = ("cat", "dog", "../up/to/..")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zero_shot_model(tmp_path_factory.mktemp("model"), CLASSES)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures of one name in many folders, an exact copy, and one that cannot be read."""
    photos = image_folder(tmp_path / "photos", train=2, test=2)
    shutil.copy(photos / "test" / "cat" / "0.jpg", photos / "test" / "cat" / "0 (2).jpg")
    (photos / "broken.jpg").write_bytes(b"no image")
    return photos


def sort(model: Path, photos: object, *more: object) -> Result:
    return fsbench("predict", model, photos, "--format", "csv", *more)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_each_picture_goes_into_the_folder_of_its_class(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    before, to = tree(photos), tmp_path / "sorted"
    done = sort(model, photos, "--sort-into", to)
    assert done.code == 1
    rows = list(csv.DictReader(io.StringIO(done.out)))
    found = tree(to)
    assert sorted(found.values()) == sorted(before.values())
    places = {"../up/to/..": "__up_to__", "": "unreadable"}
    expected = [places.get(row["class"], row["class"]) for row in rows]
    assert sorted(path.split("/")[0] for path in found) == sorted(expected)
    assert tree(photos) == before
    sample = next(path for path in (photos / "test").rglob("1.jpg"))
    copies = [path for path in to.rglob("*.jpg") if path.read_bytes() == sample.read_bytes()]
    assert [path.stat().st_mtime_ns for path in copies] == [sample.stat().st_mtime_ns]
    assert done.err.startswith(f"sorted into {to}: ")
    assert "1 unreadable" in done.err


def test_the_same_command_changes_nothing_and_goes_on(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to, copied = tmp_path / "sorted", []
    copy = shutil.copy2

    def interrupted(source: Any, target: Any) -> None:
        copied.append(source)
        if len(copied) == 5:
            Path(target).write_bytes(b"a part")
            left = f"{TEMPORARY}~{this_machine()}~{2**22 + 1}~00"
            Path(target).with_name(left).write_bytes(b"of a process that was killed")
            raise OSError(28, "No space left on device")
        copy(source, target)

    monkeypatch.setattr(shutil, "copy2", interrupted)
    done = sort(model, photos, "--sort-into", to)
    assert done.code == 1
    assert "cannot be put there (No space left on device)" in done.err.splitlines()[-1]
    part = {path: data for path, data in tree(to).items() if TEMPORARY not in path}
    assert (len(part), len(tree(to))) == (4, 5)
    monkeypatch.undo()
    sort(model, photos, "--sort-into", to)
    whole = {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()}
    assert part.items() <= tree(to).items()
    assert sorted(tree(to).values()) == sorted(tree(photos).values())
    sort(model, photos, "--sort-into", to)
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*") if path.is_file()} == whole


def test_another_file_of_the_name_stays(model: Path, tmp_path: Path) -> None:
    to = tmp_path / "sorted"
    save_image(tmp_path / "new" / "one.jpg", 1)
    (best,) = fb.load_model(model).predict(tmp_path / "new")["class"]
    folder = to / {"../up/to/..": "__up_to__"}.get(best, best)
    folder.mkdir(parents=True)
    (folder / "one.jpg").write_bytes(b"precious")
    (folder / "one (2).jpg").mkdir()
    (folder / "one (3).jpg").symlink_to("nowhere")
    for _ in range(2):
        assert sort(model, tmp_path / "new", "--sort-into", to).code == 0
    assert (folder / "one.jpg").read_bytes() == b"precious"
    assert (folder / "one (4).jpg").read_bytes() == (tmp_path / "new" / "one.jpg").read_bytes()
    assert len(list(folder.iterdir())) == 4


def test_a_picture_that_another_model_sorted_stays_in_one_folder(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    """Also where pictures of one name were numbered."""
    to = tmp_path / "sorted"
    config, tensors = read_model(model)
    write_model(tmp_path / "other", msgspec.structs.replace(config, reject=1.0), tensors, "")
    sort(model, photos, "--sort-into", to)
    before = tree(to)
    done = sort(tmp_path / "other", photos, "--sort-into", to)
    assert tree(to) == before
    pictures = sum(not path.startswith("unreadable/") for path in before)
    assert f"{pictures} in other folders already, where they stay" in done.err
    save_image(tmp_path / "more" / "one.jpg", 4321)
    sort(tmp_path / "other", tmp_path / "more", "--sort-into", to)
    assert len(tree(to)) == len(before) + 1


def test_rejected_pictures_and_links(model: Path, photos: Path, tmp_path: Path) -> None:
    config, tensors = read_model(model)
    write_model(tmp_path / "strict", msgspec.structs.replace(config, reject=1.0), tensors, "")
    to = tmp_path / "sorted"
    for _ in range(2):
        sort(tmp_path / "strict", os.path.relpath(photos / "test"), "--sort-into", to, "--link")
    assert {path.name for path in to.iterdir()} == {"rejected"}
    links = list((to / "rejected").iterdir())
    pictures = sorted((photos / "test").rglob("*.jpg"))
    assert sorted(path.readlink() for path in links) == pictures


def test_folders_that_lie_in_each_other_are_refused(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "file").write_text("")
    for images, to, complaint in (
        (photos, photos / "sorted", "lies in"),
        (photos, tmp_path / "link" / "sorted", "lies in"),
        (tmp_path / "link", "test/cat", "lies in"),
        (photos / "test", tmp_path, "or holds it"),
        ("test/*", "test/sorted", "lies in 'test/*'"),
        ("test/**", "test/sorted/here", "lies in 'test/**'"),
        (photos, tmp_path / "file", "is a file"),
        (photos, model, "is in the folders of the store or model"),
    ):
        before = tree(tmp_path)
        done = sort(model, images, "--sort-into", to)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert complaint in done.err
        assert tree(tmp_path) == before
    done = sort(model, photos, "--link")
    assert (done.code, "--link: expected with --sort-into" in done.err) == (2, True)


NAMES = (
    *("a/b", "a\\b", "a_b", "..", ".", " ", "...", "CON", "nul.txt", "Cat", "cat", "CAT"),
    *("rejected", "Unreadable", "caf\u00e9", "cafe\u0301", "x" * 400, "x" * 401, "\u7334" * 300),
    *(".hidden", "end.", "end ", "/etc/passwd", "C:\\windows", "\ud800", "a\nb", "\u202e", "~"),
)


def test_no_name_of_a_class_collides_or_escapes(tmp_path: Path) -> None:
    """Also where a file system folds case and Unicode forms."""
    save_image(tmp_path / "one.jpg", 1)
    to = tmp_path / "sorted"
    sorter = Sorter(to, [], NAMES, link=False)
    from fewshot_bench.analysis.model import Prediction

    for name in NAMES:
        sorter.put(Prediction(str(tmp_path / "one.jpg"), (name,), (1.0,)))
    made = [path.name for path in to.iterdir()]
    assert len({name.casefold() for name in made}) == len(made) == len(NAMES)
    assert {"cat", "Cat (2)", "a_b", "a_b (2)"} & set(made)
    assert not {"rejected", "unreadable"} & {name.casefold() for name in made}
    assert all(name[0] not in ". " and name[-1] not in ". " for name in made)
    assert all(len(os.fsencode(name)) <= 255 for name in made)
    assert {path.name for path in tmp_path.iterdir()} == {"one.jpg", "sorted"}
    assert all(path.is_file() for path in to.glob("*/*"))


def test_long_and_odd_names_of_files_stay_apart(model: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff" * 3 + b".jpg")
    for number, name in enumerate(("y" * 251 + ".jpg", odd, "\u7334" * 80 + ".jpg", "A.JPG")):
        for folder in ("a", "b"):
            save_image(tmp_path / "x.jpg", 2 * number + (folder == "b"))
            (tmp_path / "new" / folder).mkdir(parents=True, exist_ok=True)
            there = tmp_path / "new" / folder / (name.lower() if folder == "b" else name)
            (tmp_path / "x.jpg").rename(there)
    to = tmp_path / "sorted"
    done = sort(model, tmp_path / "new", "--sort-into", to)
    assert done.code == 0, done.err
    assert sorted(tree(to).values()) == sorted(tree(tmp_path / "new").values())
    folded = [str(path).casefold() for path in to.rglob("*")]
    assert len(set(folded)) == len(folded)
