"""`fsbench adapt MODEL --add FOLDER`: a kept model takes more images and classes."""

from __future__ import annotations

import json
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.plugins.models import adapt as adapting
from fewshot_bench.store.kept_models import SOURCES, TENSORS, read_config
from tests.support.helpers import Result, fsbench, save_image

TINY = ("--backbone", "tiny", "--device", "cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repeat of all folds."""
    monkeypatch.setattr(adapting, "REPEATS", 1)


def save(root: Path, *images: str) -> None:
    """Images of different content, which depends on the path alone."""
    for image in images:
        save_image(root / image, zlib.crc32(image.encode()))


def photos(root: Path) -> Path:
    for name, count in (("cat", 3), ("dog", 2)):
        save(root, *(f"{name}/{index}.png" for index in range(count)))
    return root


def added(root: Path) -> Path:
    """A new class, two new images of an old class, one of these under a name that is there."""
    save(root, "ant/0.png", "ant/1.png", "cat/7.png")
    save_image(root / "cat/1.png", 99)
    return root


def adapt(folder: Path, output: Path, *more: object) -> Result:
    done = fsbench("adapt", "-d", folder, "-O", output, *TINY, "--force", *more)
    assert done.code == 0, done.err
    return done


def extend(*arguments: object) -> Result:
    return fsbench("adapt", *arguments, "--device", "cpu")


def facts(folder: Path) -> tuple[bytes, dict[str, Any]]:
    config = read_config(folder).as_json()
    del config["digest"], config["data"]["dataset"]
    return (folder / TENSORS).read_bytes(), config


def count(folder: Path) -> int:
    """The number of images that a model was made from."""
    data = read_config(folder).data
    return int(sum(data["images"].values()) + data["validation"])


def joined(root: Path, *folders: Path) -> Path:
    """All images in one folder; of two with one path, the later is renamed."""
    for folder in folders:
        for path in sorted(folder.rglob("*.png")):
            place = root / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place.with_name(f"{path.stem}_2.png") if place.exists() else place)
    return root


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gda", ()),
        ("linear-probe", ("-o", "search_steps=0")),
        ("linear-probe (all images)", ("-o", "search_steps=0")),
        ("tip-adapter", ("--metric", "macro", "--shots", 3, "--seed", 5, "--reject", 0.5)),
        ("clip-lora", ("-o", "iterations=2", "--exif", "rotate", "--templates", "my {}.")),
    ],
)
def test_the_model_is_that_of_one_folder_of_all_images(
    tmp_path: Path, method: str, options: tuple[object, ...]
) -> None:
    old, new = photos(tmp_path / "photos"), added(tmp_path / "new")
    adapt(old, tmp_path / "m", "-m", method, *options)
    before = read_config(tmp_path / "m")
    done = extend(tmp_path / "m", "--add", new)
    assert done.code == 0, done.err
    adapt(joined(tmp_path / "joined", old, new), tmp_path / "fresh", "-m", method, *options)
    assert facts(tmp_path / "m") == facts(tmp_path / "fresh")
    config = read_config(tmp_path / "m")
    assert (config.classnames, config.data["dataset"]) == (("ant", "cat", "dog"), "folder:photos")
    assert "; new: ant " in done.out
    for accuracy in (before.accuracy, config.accuracy):
        assert f"{100 * accuracy['mean']:.1f} %" in done.out


@pytest.mark.parametrize(
    ("place", "held", "added"),
    [
        ("train/{}", "test/{}", "train/ant train/cat test/ant"),
        ("{}/train", "{}/test", "ant/train ant/test cat/train"),
        ("a/{}", "", "b/ant a/cat"),
    ],
)
def test_folders_of_roles_and_nested_classes(
    tmp_path: Path, place: str, held: str, added: str
) -> None:
    """Test images are left alone."""
    old, new = tmp_path / "photos", tmp_path / "new"
    for name in ("cat", "dog"):
        save(old, *(f"{place.format(name)}/{index}.png" for index in range(3)))
        save(old, *(f"{part.format(name)}/t.png" for part in [held] if part))
    for parent in added.split():
        save(new, f"{parent}/8.png", f"{parent}/9.png")
    adapt(old, tmp_path / "m", "-m", "gda")
    assert extend(tmp_path / "m", "--add", new).code == 0
    adapt(joined(tmp_path / "joined", old, new), tmp_path / "fresh", "-m", "gda")
    assert facts(tmp_path / "m") == facts(tmp_path / "fresh")
    assert count(tmp_path / "m") == 10


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Images would not be used, or become classes of their own."""
    old, new = tmp_path / "photos", tmp_path / "new"
    save(old, *(f"train/{name}/{index}.png" for name in ("cat", "dog") for index in range(3)))
    save(new, "cat/9.png", "cat/8.png")
    save(old, "test/cat/9.png", "test/dog/9.png")
    adapt(old, tmp_path / "m", "-m", "gda")
    done = extend(tmp_path / "m", "--add", new)
    assert (done.code, done.err.count("/tmp/fsbench")) == (2, 0)
    assert f"{new}: 2 of its images would not be used beside the earlier ones" in done.err
    shutil.rmtree(old / "test")
    (old / "train").rename(old / "animals")
    done = extend(tmp_path / "m", "--add", new)
    assert done.code == 2
    assert "'animals/cat' would be a class beside that of its last name" in done.err


def test_images_join_again_and_again(tmp_path: Path) -> None:
    """Also into the folder of then; own class names stay, and bytes that are there are left out."""
    old, names = photos(tmp_path / "photos"), tmp_path / "names.json"
    names.write_text('["Katze", "Hund"]')
    adapt(old, tmp_path / "m", "-m", "gda", "--classnames", names)
    new = added(tmp_path / "new")
    (new / "dog").mkdir()
    shutil.copy(old / "dog/0.png", new / "dog/same.png")
    done = extend(tmp_path / "m", "--add", new, "-O", tmp_path / "more")
    assert done.code == 0, done.err
    assert f"4 of {new} (1 more are there already)" in done.out
    assert read_config(tmp_path / "m").classnames == ("Katze", "Hund")
    assert count(tmp_path / "more") == 9
    assert read_config(tmp_path / "more").classnames == ("ant", "Katze", "Hund")
    assert json.loads((tmp_path / "more" / SOURCES).read_text())["datasets"] == [
        f"folder:{old}",
        f"folder:{new}",
    ]
    save(old, "dog/5.png")
    done = extend(tmp_path / "more", "--add", old)
    assert done.code == 0, done.err
    assert count(tmp_path / "more") == 10


def test_images_that_are_gone_or_moved(tmp_path: Path) -> None:
    old, new = photos(tmp_path / "photos"), added(tmp_path / "new")
    adapt(old, tmp_path / "m", "-m", "gda")
    before = facts(tmp_path / "m")
    assert f"'{old}' hold no image" in extend(tmp_path / "m", "--add", old).err
    save_image(old / "cat/0.png", 1234)
    (old / "dog/0.png").unlink()
    done = extend(tmp_path / "m", "--add", new)
    assert done.code == 2
    assert f"2 of the 5 images that {tmp_path / 'm'} was made from are not in '{old}'" in done.err
    shutil.rmtree(old)
    assert (
        "--dataset names where those of the earlier model"
        in extend(tmp_path / "m", "--add", new).err
    )
    assert facts(tmp_path / "m") == before
    done = extend(tmp_path / "m", "--add", new, "-d", photos(tmp_path / "elsewhere"))
    assert done.code == 0, done.err
    assert len(read_config(tmp_path / "m").classnames) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m",), "name MODEL and --add"),
        (("--add", "new"), "name MODEL and --add"),
        (("new",), "or images by --dataset"),
        (("m", "--add", "digits"), "digits: expected a folder of images"),
        (("m", "--add", "flat"), "would not be used"),
        (("m", "--add", "broken"), "1 of its images cannot be used: cat/bad.png: no known"),
        (("none", "--add", "new"), "none is not there"),
    ],
)
def test_refused_before_anything_is_fitted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    adapt(photos(tmp_path / "photos"), tmp_path / "m", "-m", "gda")
    before = facts(tmp_path / "m")
    save(tmp_path / "new", "ant/0.png")
    save(tmp_path / "flat", "0.png")
    (tmp_path / "broken/cat").mkdir(parents=True)
    (tmp_path / "broken/cat/bad.png").write_bytes(b"no image")
    done = extend(*arguments)
    assert done.code in (2, 3)
    assert done.err.count("error") == 1
    assert said in done.err
    assert "/tmp/fsbench-adapt" not in done.err
    assert facts(tmp_path / "m") == before


@pytest.mark.parametrize(
    "content", ["", "[]", '{"datasets": 1, "asked": {}}', '{"datasets": ["digits"], "asked": {}}']
)
def test_sources_of_somebody_else_run_nothing(tmp_path: Path, content: str) -> None:
    adapt(photos(tmp_path / "photos"), tmp_path / "m", "-m", "gda")
    (tmp_path / "m" / SOURCES).write_text(content)
    assert extend(tmp_path / "m", "--add", added(tmp_path / "new")).code in (1, 2)
    code = tmp_path / "own.py"
    code.write_text("raise SystemExit('it ran')")
    asked = {"method": f"{code}:Own", "say": "x", "output": str(tmp_path / "photos")}
    told = {"datasets": [f"folder:{tmp_path / 'photos'}"], "asked": asked}
    (tmp_path / "m" / SOURCES).write_text(json.dumps(told))
    done = extend(tmp_path / "m", "--add", tmp_path / "new")
    assert done.code == 0, done.err
    assert read_config(tmp_path / "m").method == "gda"


def test_a_model_that_was_replaced_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, other = photos(tmp_path / "photos"), tmp_path / "other"
    adapt(old, tmp_path / "m", "-m", "gda")
    adapt(old, other, "-m", "gda", "--seed", 2)
    write = adapting.write_model

    def late(folder: Path, *more: Any) -> str:
        shutil.copytree(other, tmp_path / "m", dirs_exist_ok=True)
        return write(folder, *more)

    monkeypatch.setattr(adapting, "write_model", late)
    done = fb.extend(tmp_path / "m", added(tmp_path / "new"), device="cpu")
    assert done.folder == tmp_path / "m-2"
    assert facts(tmp_path / "m") == facts(other)


KILLED = """
import os, shutil, signal, sys
from fewshot_bench.plugins.models import adapt, extend, place
adapt.REPEATS = 1
left, move = [int(sys.argv[3])], {"out": os.replace, "in": shutil.move}
def count(move):
    def counted(source, target):
        if ".fsbench-tmp" in str(source) + str(target) and not str(target).endswith("new"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return move(source, target)
    return counted
class Os:
    def __getattr__(self, name):
        return count(os.replace) if name == "replace" else getattr(os, name)
class Shutil:
    def __getattr__(self, name):
        return count(shutil.move) if name == "move" else getattr(shutil, name)
place.os, place.shutil = Os(), Shutil()
extend.extend(sys.argv[1], sys.argv[2], device="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 1, 3, 4, 5, 7])
def test_the_earlier_model_outlives_a_process_that_is_killed(tmp_path: Path, moves: int) -> None:
    """Wherever it is in moving the files: four out of the folder, then four into it."""
    import subprocess
    import sys

    adapt(photos(tmp_path / "photos"), tmp_path / "m", "-m", "gda")
    before, new = facts(tmp_path / "m"), added(tmp_path / "new")
    asked = (sys.executable, "-c", KILLED, str(tmp_path / "m"), str(new), str(moves))
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    from fewshot_bench.plugins.models.place import restore

    restore(tmp_path / "m")
    assert facts(tmp_path / "m") == before
    assert extend(tmp_path / "m", "--add", new).code == 0
    assert len(read_config(tmp_path / "m").classnames) == 3
