"""`fsbench predict`: files, folders, patterns and lists of them; unreadable files are named."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fewshot_bench as fb
from fewshot_bench.api.spec import canonical_json
from fewshot_bench.store.kept_models import CONFIG, read_model, write_model
from tests.support.helpers import PATIENCE, fsbench, image_folder, start
from tests.support.models import zero_shot_model

CLASSES = ("cat", "dog", "=1+1|cow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zero_shot_model(tmp_path_factory.mktemp("model"), CLASSES)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "photos", train=1, test=2)


def rows(text: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_formats_say_the_same(model: Path, photos: Path, tmp_path: Path) -> None:
    asked = (model, photos / "test" / "cat" / "0.jpg", photos / "test" / "dog", "--top", 3)
    table, listed = fsbench("predict", *asked), fsbench("predict", *asked, "--format", "csv")
    lines = fsbench("predict", *asked, "--format", "jsonl", "--output", tmp_path / "out.jsonl")
    assert (table.code, listed.code, lines.code) == (0, 0, 0)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    plain = {None: "", False: "false"}
    guarded = [
        {k: plain.get(v, str(v).replace("=", "'=")) for k, v in row.items()} for row in found
    ]
    assert guarded == rows(listed.out)
    order = ["image", "class", "probability", "runner_up", "runner_up_probability"]
    assert list(found[0]) == [*order, "class_3", "probability_3", "rejected", "error"]
    expected = fb.load_model(model).predict([row["image"] for row in found], top=3)
    assert expected.to_dict("records") == found
    assert [Path(row["image"]).name for row in found] == ["0.jpg", "0.jpg", "1.jpg"]
    shown = table.out.splitlines()
    assert shown[0].split() == ["class", "share", "runner_up", "share", "class_3", "share", "image"]
    assert len(shown) == 4


def test_folders_patterns_and_hidden_files(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "test" / ".hidden.jpg").write_bytes(b"")
    (photos / "test" / "notes.txt").write_text("no image")
    monkeypatch.chdir(photos)
    below = rows(fsbench("predict", model, "test", "--format", "csv").out)
    assert [row["image"] for row in below] == [
        os.path.join("test", name, f"{index}.jpg") for name in ("cat", "dog") for index in (0, 1)
    ]
    some = rows(fsbench("predict", model, "test/*/1.jpg", "--format", "csv").out)
    assert [row["image"] for row in some] == ["test/cat/1.jpg", "test/dog/1.jpg"]


def test_links_to_folders_are_followed_once(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "new").symlink_to(photos / "test" / "cat")
    (given / "self").symlink_to(given)
    (given / "nothing").symlink_to(tmp_path / "nothing")
    (photos / "test" / "cat" / "up").symlink_to(photos / "test")
    monkeypatch.chdir(tmp_path)
    done = fsbench("predict", model, "given", "--format", "csv")
    assert done.code == 0, done.err
    assert [row["image"] for row in rows(done.out)] == [
        "given/new/0.jpg",
        "given/new/1.jpg",
        "given/new/up/dog/0.jpg",
        "given/new/up/dog/1.jpg",
    ]


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\rb", "=1+1", "a\nb"])
def test_names_of_files_are_safe_in_csv(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(photos / "test" / "cat")
    os.rename("0.jpg", f"{name}.jpg")
    done = fsbench("predict", model, f"{name}.jpg", "--format", "csv")
    (row,) = rows(done.out)
    assert done.out.count("\n") == 2
    assert row["image"].isprintable()
    assert row["image"].startswith("'=" if name.startswith("=") else name[0].strip("\x1b"))
    found = json.loads(fsbench("predict", model, f"{name}.jpg", "--format", "jsonl").out)
    assert found["image"] == f"{name}.jpg"


def test_arguments_of_another_kind_are_usage_errors(model: Path) -> None:
    with pytest.raises(TypeError, match="None is no model; expected a folder or hub:"):
        fb.load_model(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="top='3': expected a whole number from 1"):
        fb.load_model(model).predict([], top="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [b"", b"\n"])
def test_an_empty_list_leaves_an_earlier_answer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bytes
) -> None:
    answers, paths = tmp_path / "answers.csv", tmp_path / "paths"
    answers.write_text("precious\n")
    paths.write_bytes(given)
    with paths.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        done = fsbench("predict", model, "-", "--format", "csv", "-O", answers)
    assert done.code == 2
    assert "no path came on standard input" in done.err
    assert answers.read_text() == "precious\n"
    assert {path.name for path in tmp_path.iterdir()} == {"answers.csv", "paths"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("options", {"a": functools.reduce(lambda inner, _: {"a": inner}, range(500), {})}),
        ("classnames", ["cat", "\x1b[31mdog"]),
        ("classnames", ["cat", "dog\n"]),
    ],
)
def test_configs_that_no_program_should_show_are_refused(
    model: Path, photos: Path, tmp_path: Path, field: str, value: Any
) -> None:
    """Also with a digest that fits."""
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    plain = json.loads((folder / CONFIG).read_text()) | {field: value}
    del plain["digest"]
    plain["digest"] = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(plain))
    for asked in (("predict", folder, photos), ("evaluate", folder, "-d", f"folder:{photos}")):
        done = fsbench(*asked)
        assert (done.code, done.out) == (1, "")
        (line,) = done.err.splitlines()
        assert line.isprintable()
        assert re.search(rf" is no config of a model: .*\b{field}\b", line)


def test_what_cannot_be_read_is_a_row_with_an_error(model: Path, photos: Path) -> None:
    broken, empty = photos / "broken.jpg", photos / "test" / "cat" / "2.heic"
    broken.write_bytes(b"no image")
    empty.write_bytes(b"")
    asked = ("predict", model, broken, photos / "test", "missing.png")
    done = fsbench(*asked, "--format", "csv")
    assert (done.code, done.err) == (1, "3 of 7 images could not be read\n")
    found = rows(done.out)
    bad = [row for row in found if row["error"]]
    assert [row["image"] for row in bad] == [str(broken), str(empty), "missing.png"]
    assert {row["class"] + row["probability"] + row["runner_up"] for row in bad} == {""}
    listed = [json.loads(line) for line in fsbench(*asked, "--format", "jsonl").out.splitlines()]
    assert [row["error"] or "" for row in listed] == [row["error"] for row in found]
    assert {row["rejected"] for row in bad} == {""}
    assert all(row["rejected"] is (None if row["error"] else False) for row in listed)
    shown = fsbench(*asked).out.splitlines()
    assert shown[-1].split() == ["-", "-", "missing.png:", "does", "not", "exist"]


def test_paths_come_on_standard_input(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, paths = os.fsencode(photos) + b"/\xff.jpg", tmp_path / "paths"
    os.rename(photos / "test" / "cat" / "0.jpg", odd)
    paths.write_bytes(odd + b"\n\n" + os.fsencode(photos / "test" / "dog") + b"\n")
    with paths.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        done = fsbench("predict", model, "-", "--format", "jsonl")
    assert done.code == 0, done.err
    images = [json.loads(line)["image"] for line in done.out.splitlines()]
    assert os.fsencode(images[0]) == odd
    assert len(images) == 3


def test_a_path_on_standard_input_is_answered_before_the_next_one_comes(
    model: Path, photos: Path
) -> None:
    asked = ("predict", model, "-", "--format", "jsonl")
    with start(*asked, stdin=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            for path in (photos / "test" / "cat" / "1.jpg", photos / "test" / "dog" / "0.jpg"):
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
                assert select.select([process.stdout], [], [], PATIENCE)[0], "no answer came"
                assert json.loads(process.stdout.readline())["image"] == str(path)
            out, err = process.communicate()
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_nothing_to_classify_is_a_usage_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for images, complaint in (
        ((), "no image is named"),
        ((tmp_path,), "holds no image"),
        ((tmp_path / "*.jpg",), "matches no file"),
    ):
        done = fsbench("predict", model, *images)
        assert (done.code, done.out) == (2, "")
        assert complaint in done.err


def test_a_model_that_cannot_be_used_is_one_line(model: Path, photos: Path, tmp_path: Path) -> None:
    done = fsbench("predict", tmp_path, photos)
    assert (done.code, done.out) == (3, "")
    step = "expected a folder that 'fsbench adapt' or 'fsbench run --keep-models' wrote"
    no = f"error: {tmp_path} holds no model: there is no config.json in it; {step}\n"
    assert done.err == no
    absent = tmp_path / "absent"
    assert fsbench("predict", absent, photos).err == f"error: {absent} is not there; {step}\n"
    assert fsbench("predict", model, photos, "--device", "gpu").code == 2
    assert fsbench("predict", model, photos, "--output", tmp_path / "no" / "file").code == 2


def test_rejected_images_keep_their_best_class(model: Path, photos: Path, tmp_path: Path) -> None:
    config, tensors = read_model(model)
    write_model(tmp_path / "strict", msgspec.structs.replace(config, reject=1.0), tensors, "")
    asked = (photos / "test", "--format", "jsonl")
    found, expected = (
        [json.loads(line) for line in fsbench("predict", each, *asked).out.splitlines()]
        for each in (tmp_path / "strict", model)
    )
    assert found == [row | {"rejected": True} for row in expected]
    table = fsbench("predict", tmp_path / "strict", photos / "test").out.splitlines()
    assert {line.split()[-2] for line in table} == {"rejected"}


def test_evaluate_gives_the_metrics_of_the_run(photos: Path, tmp_path: Path) -> None:
    from fewshot_bench.runner.run import run_one
    from fewshot_bench.runner.session import Session
    from tests.support.helpers import cells

    name = f"folder:{photos}"
    spec = cells("zero-shot", datasets=(name,), limit=None)[0]
    record = run_one(spec, Session(models=tmp_path)).record
    kept = tmp_path / "models" / spec.key()
    done = fsbench("evaluate", kept, "-d", name, "--store", tmp_path, "--format", "json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    for metric, value in found["metrics"].items():
        assert value == pytest.approx(record.metrics[metric], abs=1e-4), metric
    assert list(found["classes"]) == ["cat", "dog"]
    shown = fsbench("evaluate", kept, "-d", name, "--store", tmp_path).out.splitlines()
    assert shown[0] == f"zero-shot on tiny, 4 test images of {name}"
    assert [line.split()[0] for line in shown[-3:]] == ["cat", "dog", "record"]
    other = fsbench("evaluate", kept, "-d", "digits", "--store", tmp_path)
    assert other.code == 2
    assert "classes differ: the model alone has 'cat', 'dog'; digits alone has" in other.err
