"""Real-world folders: nested classes, other spellings, and files that are not images."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fewshot_bench import DataMissingError, UsageError
from fewshot_bench.api.registry import registry
from fewshot_bench.api.sources import image_endings
from fewshot_bench.utils import image_formats
from tests.support.helpers import fsbench

COUNT = 6


def add(root: Path, *folders: str, ending: str = "png", count: int = COUNT) -> Path:
    """Write folders of distinct images."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            shade = (number * 40 % 256, *hashlib.sha256(folder.encode()).digest()[:2])
            form = "PNG" if ending == "png" else "JPEG"
            Image.new("RGB", (8, 8), shade).save(root / folder / f"{number}.{ending}", form)
    return root


def classes(root: Path) -> tuple[str, ...]:
    return tuple(registry().dataset(f"folder:{root}").card().classnames)


def left_out(root: Path) -> str:
    return "\n".join(registry().dataset(f"folder:{root}").card().left_out)


def counts(root: Path) -> dict[str, int]:
    return dict(registry().dataset(f"folder:{root}").card().counts)


def test_nested_folders_are_classes_named_by_the_leaf(tmp_path: Path) -> None:
    add(tmp_path, "animals/cats", "animals/dogs", "plants/trees/oaks")
    assert classes(tmp_path) == ("cats", "dogs", "oaks")


def test_leaves_that_share_a_name_are_named_by_their_paths(tmp_path: Path) -> None:
    add(tmp_path, "animals/other", "plants/Other", "plants/roses")
    assert classes(tmp_path) == ("animals/other", "plants/Other", "roses")


@pytest.mark.parametrize(
    "roles",
    [("Train", "Val", "Test"), ("TRAIN", "dev", "TEST"), ("training", "Validation", "testing")],
)
def test_role_folders_in_any_case_and_word(tmp_path: Path, roles: tuple[str, ...]) -> None:
    add(tmp_path, *(f"{role}/{name}" for role in roles for name in "ab"))
    assert counts(tmp_path) == {"train": 12, "val": 12, "test": 12}


def test_roles_below_one_folder_and_below_the_classes(tmp_path: Path) -> None:
    add(
        tmp_path / "x",
        *(f"photos/all/{role}/{name}" for role in ("train", "test") for name in "ab"),
    )
    assert classes(tmp_path / "x") == ("a", "b")
    add(tmp_path / "y", *(f"{name}/{role}" for role in ("train", "val", "test") for name in "ab"))
    assert classes(tmp_path / "y") == ("a", "b")
    assert counts(tmp_path / "y") == {"train": 12, "val": 12, "test": 12}


def test_classes_called_train_and_test(tmp_path: Path) -> None:
    add(tmp_path, "bus", "plane", "train", "test")
    assert classes(tmp_path) == ("bus", "plane", "test", "train")


def test_nested_classes_in_role_folders(tmp_path: Path) -> None:
    add(tmp_path, *(f"{role}/{path}" for role in ("train", "test") for path in ("a/x", "b/y")))
    assert classes(tmp_path) == ("x", "y")


def test_two_folders_of_one_role(tmp_path: Path) -> None:
    add(tmp_path, "train/a", "Training/a", "test/a")
    with pytest.raises(UsageError, match="Training and train: expected one train folder"):
        classes(tmp_path)


def test_images_and_folders_of_images_in_one_place(tmp_path: Path) -> None:
    add(tmp_path, "cats", "cats/rejected", "dogs")
    with pytest.raises(UsageError, match=r"cats holds images and folders of images \(cats/rej"):
        classes(tmp_path)


def test_what_systems_leave_is_no_class_and_no_image(tmp_path: Path) -> None:
    add(tmp_path, "a", "b", "__MACOSX/a", "@eaDir/a", "a/@eaDir", ".thumbnails", "a/.cache")
    for name in ("._0.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / "a" / name).write_bytes(b"\0\5\x16\7")
    assert classes(tmp_path) == ("a", "b")
    assert sum(counts(tmp_path).values()) == 2 * COUNT
    assert left_out(tmp_path) == (
        "folders of systems and programs are no classes: @eaDir, __MACOSX, a/@eaDir"
    )


def test_a_store_in_the_folder_is_no_class(tmp_path: Path) -> None:
    add(tmp_path, "a", "b")
    (tmp_path / "fsbench-results" / "records").mkdir(parents=True)
    (tmp_path / "fsbench-results" / "x.json").touch()
    assert (classes(tmp_path), left_out(tmp_path)) == (("a", "b"), "")


@pytest.mark.parametrize("ending", ["jfif", "JPE", "tga", "pgm"])
def test_endings_that_pillow_reads(tmp_path: Path, ending: str) -> None:
    add(tmp_path, "a", "b", ending=ending)
    assert sum(counts(tmp_path).values()) == 2 * COUNT


def test_the_names_of_a_class_are_stripped(tmp_path: Path) -> None:
    add(tmp_path, "dress ", " hot  dog", count=4)
    assert classes(tmp_path) == ("dress", "hot dog")
    add(tmp_path / "roles", "train/dress", "train/b", "test/dress ", "test/b")
    assert classes(tmp_path / "roles") == ("b", "dress")


@pytest.mark.parametrize(
    "pair", [("UPPER", "upper"), ("train/Dress", "test/dress"), ("a/hot dog", "a/Hot  dog")]
)
def test_names_that_differ_in_case_alone(tmp_path: Path, pair: tuple[str, str]) -> None:
    first = pair[0].partition("/")[0] + "/" if "train" in pair[0] else ""
    add(tmp_path, *pair, f"{first}other", *(["test/other"] if first else []))
    with pytest.raises(UsageError, match="differ in case, blanks or underscores"):
        classes(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ("cat", "cat ", "other"),
        ("a cat", "a  cat", "other"),
        ("caf\u00e9", "cafe\u0301", "other"),
        ("train/cat", "train/cat ", "train/other", "test/cat", "test/other"),
        ("cat/train", "cat /train", "cat/test", "other/train", "other/test"),
    ],
)
def test_two_folders_are_not_merged_into_one_class(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    add(tmp_path, *folders)
    with pytest.raises(UsageError, match="are both the class") as caught:
        classes(tmp_path)
    assert f"'{folders[0]}'" in str(caught.value)
    assert f"'{folders[1]}'" in str(caught.value)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.sampled_from("aAbB _\u00e9\u0301"), min_size=1, max_size=3).filter(str.strip),
        min_size=2,
        max_size=4,
        unique=True,
    )
)
def test_no_two_classes_are_twins(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("any")
    add(root, *names, count=3)
    try:
        found = classes(root)
    except UsageError:
        return
    prompts = {" ".join(name.casefold().replace("_", " ").split()) for name in found}
    assert len(prompts) == len(found)
    assert all(name == name.strip() for name in found)


def test_formats_that_cannot_be_read_are_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "a", "b")
    (tmp_path / "a" / "IMG_1.HEIC").write_bytes(b"\0")
    (tmp_path / "b" / "raw.nef").write_bytes(b"\0")
    (tmp_path / "b" / "notes.txt").touch()
    (tmp_path / "b" / "scan").touch()
    (tmp_path / "cover.png").touch()
    assert left_out(tmp_path) == (
        "images left out: 1 .heic cannot be read here (pip install pillow-heif): a/IMG_1.HEIC\n"
        "images left out: 1 .nef cannot be read here (convert them to JPEG or PNG): b/raw.nef\n"
        "images in no class folder are not used (1): cover.png\n"
        "files that are no images by their ending (2; .txt, no ending): b/notes.txt, b/scan"
    )
    name = f"folder:{tmp_path}"
    assert "IMG_1.HEIC" in fsbench("show", name).out
    assert "IMG_1.HEIC" in fsbench("data", "verify", name).out
    asked = ("--backbone", "tiny", "-m", "zero-shot", "--shots", 1, "--seeds", 1)
    result = fsbench("run", *asked, "-d", name, "--store", tmp_path / "fsbench-results")
    assert (result.code, "IMG_1.HEIC" in result.out) == (0, True)


def test_unused_folders_may_have_names_that_are_not_utf8(tmp_path: Path) -> None:
    add(tmp_path, "train/a", "train/b", "test/a", "test/b")
    os.mkdir(os.fsencode(tmp_path) + b"/not\xe9s")
    result = fsbench("show", f"folder:{tmp_path}")
    assert (result.code, "are not used: not\\udce9s" in result.out) == (0, True)


def test_a_class_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    add(tmp_path, "a", "b")
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "1.heic").touch()
    with pytest.raises(DataMissingError, match=r"phone: none of its 1 images .* pillow-heif"):
        classes(tmp_path)


def test_an_installed_reader_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import JpegImagePlugin

    def register() -> None:
        Image.register_open("HEIF", JpegImagePlugin.JpegImageFile, lambda start: False)
        Image.register_extension("HEIF", ".heic")

    module = ModuleType("pillow_heif")
    vars(module).update(vars(SimpleNamespace(register_heif_opener=register)))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    try:
        image_endings.cache_clear()
        image_formats.add_readers.cache_clear()
        image_formats.readable_formats.cache_clear()
        add(tmp_path, "a", "b", ending="heic")
        assert sum(counts(tmp_path).values()) == 2 * COUNT
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.EXTENSION.pop(".heic", None)
        if "HEIF" in Image.ID:
            Image.ID.remove("HEIF")
        image_endings.cache_clear()
        image_formats.add_readers.cache_clear()
        image_formats.readable_formats.cache_clear()


def test_a_format_that_is_newer_than_pillow_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image_formats.CODECS, "WEBP", "newer")
    image_endings.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "webp" not in image_endings()
    finally:
        image_endings.cache_clear()


def test_a_link_that_leads_in_circles(tmp_path: Path) -> None:
    add(tmp_path, "a", "b")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="is a link to a folder that it lies in"):
        classes(tmp_path)


@pytest.mark.parametrize(
    ("link", "aim", "pair"),
    [
        ("train/kitty", "cat", "'train/cat' and 'train/kitty'"),
        ("val", "test", "'val/cat' and 'test/cat'"),
    ],
)
def test_one_folder_by_a_link_is_refused(tmp_path: Path, link: str, aim: str, pair: str) -> None:
    add(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog")
    (tmp_path / link).symlink_to(aim)
    with pytest.raises(UsageError, match=f"the folders {pair} of .* are one folder, by a link"):
        classes(tmp_path)
    (tmp_path / link).unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "train/cat").rename(tmp_path / "elsewhere/cat")
    (tmp_path / "train/cat").symlink_to(tmp_path / "elsewhere/cat")
    assert classes(tmp_path) == ("cat", "dog")


def test_stamps_change_with_the_file(tmp_path: Path) -> None:
    add(tmp_path, "a", "b")
    dataset = registry().dataset(f"folder:{tmp_path}")
    first, second = dataset.items()["train"][:2]
    before = dataset.stamp(first)
    assert before.token not in ("", dataset.stamp(second).token)
    (tmp_path / first.id).write_bytes(b"other")
    assert (dataset.stamp(first).size, dataset.stamp(first) == before) == (5, False)
    (tmp_path / first.id).unlink()
    assert dataset.stamp(first) is None


def test_a_class_folder_that_may_not_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated, since the superuser may list all folders."""
    add(tmp_path, "a", "b")
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(tmp_path / "a"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    problem = f"folder {tmp_path / 'a'} cannot be listed (Permission denied): make it readable"
    with pytest.raises(DataMissingError) as caught:
        classes(tmp_path)
    assert problem in str(caught.value)
    verified = fsbench("data", "verify", f"folder:{tmp_path}")
    assert (verified.code, problem in verified.out) == (3, True), verified
    assert "plug-in" not in verified.out


def test_classes_without_test_images_are_noted(tmp_path: Path) -> None:
    add(tmp_path, "train/a", "train/b", "train/c", "test/b")
    lines = fsbench("show", f"folder:{tmp_path}").out.splitlines()
    assert "  note       no test images of 2 of 3 classes: a, c" in lines
    files = sorted(tmp_path.rglob("*.png"))
    rows = [f"{file},{file.parts[-2]},{file.parts[-3]}" for file in files]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,split", *rows]))
    lines = fsbench("show", f"manifest:{tmp_path / 'm.csv'}").out.splitlines()
    assert "  note       no test images of 2 of 3 classes: a, c" in lines
    add(tmp_path, "test/a", "test/c")
    assert "no test images of" not in fsbench("show", f"folder:{tmp_path}").out
