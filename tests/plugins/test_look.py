"""`fsbench look`: what a person should know of a folder of images before anything is fitted."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from fewshot_bench.plugins.data import look as module
from fewshot_bench.runner.own_data import name_own
from fewshot_bench.store.kept_models import read_config
from tests.support.helpers import Result, fsbench, image_folder, save_image

HOSTILE = "<b>=1+1 & 'x'"


def draw(path: Path, seed: int) -> Image.Image:
    """Write a picture that resembles no other, and return it."""
    picture = Image.new("RGB", (160, 120), (40 * seed % 255, 90, 140))
    pen = ImageDraw.Draw(picture)
    for step in range(12):
        left, top = 37 * seed * (step + 1) % 130, 53 * (seed + step * step) % 90
        color = (61 * step % 255, 83 * seed % 255, 29 * (seed + step) % 255)
        pen.rectangle((left, top, left + 12 + seed % 17, top + 10 + step), fill=color)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of 8, 5 and 2 pictures, with copies, a contradiction, and two damaged files."""
    root = tmp_path_factory.mktemp("look") / "photos"
    for label, (name, count) in enumerate({"birch": 5, "oak": 2, HOSTILE: 1}.items()):
        for index in range(count):
            picture = draw(root / name / f"{index}.png", 1 + 10 * label + index)
    shutil.copy(root / "birch" / "0.png", root / "birch" / "again.png")
    picture.resize((120, 90)).save(root / "oak" / "smaller.png")
    (root / "birch" / "broken.jpg").write_bytes(b"no image")
    (root / "oak" / "empty.jpg").touch()
    (root / "oak" / "notes.txt").touch()
    shutil.copy(root / "oak" / "1.png", root / "birch" / "mine.png")
    return root


def rows(done: Result) -> list[dict[str, str]]:
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.out)))


def test_what_to_know_comes_first_and_then_counts(photos: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.parent.rglob("*")}
    done = fsbench("look", photos)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("13 pictures of 3 classes: 1 of ")
    said = "\n".join(lines)
    assert "3 copies of other pictures (2 byte for byte)" in said
    assert "2 pictures likely under two labels: " in said
    assert "2 pictures cannot be used: birch/broken.jpg (" in said
    assert "sizes from 120 x 90 to 160 x 120 pixels, median 160 x 120" in said
    assert "oak/notes.txt" in said
    table = [line.split() for line in lines[-4:]]
    assert table == [["class", "pictures"], ["birch", "8"], ["oak", "4"], [*HOSTILE.split(), "1"]]
    assert before == {path: path.stat().st_mtime_ns for path in photos.parent.rglob("*")}


def test_lists_are_csv_alone(photos: Path) -> None:
    copies = rows(fsbench("look", photos, "--list", "copies"))
    groups = {row["group"] for row in copies}
    members = [{r["image"] for r in copies if r["group"] == group} for group in sorted(groups)]
    tree = {f"{HOSTILE}/0.png", "oak/smaller.png"}
    expected = [{"birch/0.png", "birch/again.png"}, {"birch/mine.png", "oak/1.png"}, tree]
    assert sorted(map(sorted, members)) == sorted(map(sorted, expected))
    assert {row["kind"] for row in copies if row["image"] in tree} == {"similar"}
    assert {row["kind"] for row in copies if row["image"] not in tree} == {"same file"}
    found = rows(fsbench("look", photos, "--list", "contradictions"))
    assert {row["image"] for row in found} == set().union(*expected[1:])
    assert {row["class"] for row in found} == {"birch", "oak", HOSTILE}
    bad = rows(fsbench("look", photos, "--list", "unreadable"))
    assert [(row["image"], row["pool"]) for row in bad] == [
        ("birch/broken.jpg", "train"),
        ("oak/empty.jpg", "train"),
    ]
    assert bad[1]["kind"].endswith("the file is empty")
    none = fsbench("look", "digits", "--list", "unreadable")
    assert none.out == "group,pool,image,class,kind\n"


def test_many_classes_share_a_row(tmp_path: Path) -> None:
    for label in range(15):
        for index in range(1 + label % 3):
            save_image(tmp_path / f"class {label:02}" / f"{index}.png", 10 * label + index)
    short = fsbench("look", tmp_path).out.splitlines()
    assert ["4", "classes", "between", "(--all)", "8"] in [line.split() for line in short]
    table = short[next(n for n, line in enumerate(short) if line.startswith("class ")) :]
    assert len(table) == 13
    counts = [int(line.split()[-1]) for line in table[1:]]
    assert sum(counts) == 30
    assert (counts[0], counts[-1]) == (3, 1)
    assert len(fsbench("look", tmp_path, "--all").out.splitlines()) == len(short) + 3


def test_pools_and_tables_are_shown_as_they_are(tmp_path: Path) -> None:
    image_folder(tmp_path / "photos")
    shutil.copy(tmp_path / "photos/train/cat/0.jpg", tmp_path / "photos/test/cat/copy.jpg")
    done = fsbench("look", tmp_path / "photos").out
    assert "1 picture in several pools, as copies: " in done
    table = done.splitlines()[-3:]
    assert [line.split() for line in table] == [
        ["class", "train", "test"],
        ["cat", "6", "7"],
        ["dog", "6", "6"],
    ]
    found = rows(fsbench("look", tmp_path / "photos", "--list", "copies"))
    assert [row["pool"] for row in found] == ["train", "test"]
    names = [f"photos/train/{name}/{n}.jpg,{name}" for name in ("cat", "dog") for n in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,class", *names]), encoding="utf-8")
    done = fsbench("look", tmp_path / "list.csv")
    assert "8 pictures of 2 classes: 4 of each" in done.out, done.err


def test_what_has_no_classes_is_refused_and_broken_files_are_shown(tmp_path: Path) -> None:
    save_image(tmp_path / "flat" / "1.jpg", 1)
    (tmp_path / "empty").mkdir()
    save_image(tmp_path / "one" / "oak" / "1.jpg", 1)
    for name in ("flat", "empty", "one", "absent"):
        done = fsbench("look", tmp_path / name)
        assert done.code > 0
        assert len(done.err.splitlines()) == 1, done.err
    for name in ("oak", "birch"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "1.jpg").write_bytes(b"no image")
    done = fsbench("look", tmp_path / "broken", "--sheet", tmp_path / "sheet.html")
    assert done.code == 0, done.err
    assert "2 pictures cannot be used" in done.out
    assert (tmp_path / "sheet.html").read_text(encoding="utf-8").count("cannot be read") == 2


@pytest.fixture(scope="module")
def obstacles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound classes, and all that stops a fit: see the test."""
    root = tmp_path_factory.mktemp("obstacles") / "photos"
    for label, (role, name) in enumerate(
        (role, name) for role in ("train", "test") for name in ("cat", "dog", "owl")
    ):
        for index in range(4):
            draw(root / role / name / f"{index}.png", 10 * label + index)
    shutil.rmtree(root / "train" / "owl")
    (root / "train" / "ant").mkdir()
    (root / "train" / "cat" / "bad.jpg").write_bytes(b"no image")
    (root / "train" / "emu").mkdir()
    (root / "train" / "emu" / "0.png").write_bytes(b"no image")
    return root


def test_all_obstacles_are_listed_at_once(obstacles: Path) -> None:
    done = fsbench("look", obstacles)
    assert done.code == 0, done.err
    assert "2 pictures cannot be used: train/cat/bad.jpg (" in done.out
    assert "1 class without train images: 'owl'" in done.out
    assert "class folders without images (1): train/ant" in done.out
    assert [line.split() for line in done.out.splitlines()[-4:]] == [
        ["cat", "5", "4"],
        ["dog", "4", "4"],
        ["owl", "0", "4"],
        ["emu", "1", "0"],
    ]


def test_what_is_damaged_or_empty_is_skipped_on_request(obstacles: Path, tmp_path: Path) -> None:
    asked = ("adapt", "-d", obstacles, "-m", "zero-shot", "--backbone", "tiny", "--device", "cpu")
    refused = fsbench(*asked, "-O", tmp_path / "m")
    assert refused.code == 3
    assert "train/ant has no images in it" in refused.err
    done = fsbench(*asked, "-O", tmp_path / "m", "--skip-damaged")
    assert done.code == 0, done.err
    assert "2 damaged images left out: 'train/cat/bad.jpg', 'train/emu/0.png'" in done.out
    assert "2 classes without train images left out: 'emu', 'owl'" in done.out
    assert "class folders without images (1): train/ant" in done.out
    assert read_config(tmp_path / "m").data["images"] == {"cat": 4, "dog": 4}


def test_a_table_may_be_a_spreadsheet_with_semicolons(tmp_path: Path) -> None:
    lines = ["path;class;split"]
    for label, name in enumerate(("cat, wild", "dog")):
        for index in range(3):
            draw(tmp_path / f"{label}{index}.png", 10 * label + index)
            lines.append(f"{label}{index}.png;{name};train")
    table = tmp_path / "list.csv"
    table.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    done = fsbench("look", table)
    assert "6 pictures of 2 classes: 3 of each" in done.out, done.err
    assert any(line.split() == ["cat,", "wild", "3"] for line in done.out.splitlines())


def test_a_table_may_name_classes_without_train_images(tmp_path: Path) -> None:
    lines = ["path,class,split"]
    for label, (role, name) in enumerate((("train", "cat"), ("train", "dog"), ("test", "ape"))):
        for index in range(3):
            draw(tmp_path / f"{name}{index}.png", 10 * label + index)
            lines.append(f"{name}{index}.png,{name},{role}")
    table = tmp_path / "list.csv"
    table.write_text("\n".join([*lines, "gone.png,gnu,train"]), encoding="utf-8")
    done = fsbench("look", table)
    assert done.code == 0, done.err
    assert "1 class without train images: 'ape'" in done.out
    assert "1 picture cannot be used: gone.png" in done.out
    asked = ("adapt", "-d", table, "-m", "zero-shot", "--backbone", "tiny", "--device", "cpu")
    done = fsbench(*asked, "-O", tmp_path / "m", "--skip-damaged")
    assert done.code == 0, done.err
    assert read_config(tmp_path / "m").data["images"] == {"cat": 3, "dog": 3}
    # Fits of a benchmark need them as before.
    assert fsbench("splits", "show", f"manifest:{table}", "--shots", 1, "--seeds", 1).code > 0


@pytest.fixture(scope="module")
def sheet(photos: Path) -> Path:
    path = photos.parent / "sheet.html"
    done = fsbench("look", photos, "--sheet", path)
    assert done.code == 0, done.err
    return path


def test_a_sheet_stands_alone_and_escapes_names(sheet: Path) -> None:
    page = sheet.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert re.search("&lt;b&gt;=1\\+1 &amp; &#39;x&#39;", page)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    pictures = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    # Four stand among the contradictions, too.
    assert len(pictures) == 11 + 4
    sizes = {Image.open(io.BytesIO(base64.b64decode(one))).size for one in pictures}
    assert sizes == {(96, 72)}
    assert page.index('id="contradictions"') < page.index('id="classes"')
    assert page.count('class="bad"') == 8
    assert page.count('class="same"') == 2
    assert "copy of birch/0.png" in page


def test_of_many_pictures_an_even_part_is_shown(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TILES", 6)
    fsbench("look", photos, "--sheet", tmp_path / "sheet.html")
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert "8, of which 4 are shown" in page
    assert page.count("<li") < 20


@pytest.mark.parametrize("name", ["sheet.jpg", "absent/sheet.html"])
def test_a_sheet_is_an_html_file_in_a_folder(photos: Path, tmp_path: Path, name: str) -> None:
    done = fsbench("look", photos, "--sheet", tmp_path / name)
    assert done.code == 2
    assert "expected" in done.err


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_sheet_fits_any_screen_and_loads_nothing(browser: Any, sheet: Path, width: int) -> None:
    requests, complaints = [], []
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme="dark")
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(sheet.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [url for url in requests if not url.startswith("data:")] == [sheet.as_uri()]
    assert complaints == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.get_by_role("link", name="oak").click()
    assert page.locator("#class-3-head").bounding_box()["y"] < 844


def test_a_folder_or_table_may_be_named_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "digits"):
        save_image(tmp_path / folder / "oak" / "1.jpg", 1)
    (tmp_path / "List.CSV").touch()
    (tmp_path / "notes.txt").touch()
    names = {
        "photos": "folder:photos",
        "photos/": "folder:photos/",
        "List.CSV": "manifest:List.CSV",
        "digits": "digits",
        "./digits": "folder:./digits",
        **dict.fromkeys(("folder:photos", "notes.txt", "absent", "", "a\0b", "x" * 5000)),
    }
    assert {name: name_own(name) for name in names} == {k: v or k for k, v in names.items()}
    assert name_own(tmp_path / "photos") == f"folder:{tmp_path / 'photos'}"
    with pytest.raises(TypeError):
        name_own(5)  # type: ignore[arg-type]
