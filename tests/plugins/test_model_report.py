"""`report.html` of a model: its numbers and pictures, in a browser too."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewshot_bench as fb
from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.plugins.models import adapt as module
from fewshot_bench.plugins.models.suspects import HEADS
from fewshot_bench.store.kept_models import read_config
from tests.support.helpers import Result, fsbench
from tests.support.report_pages import Page, opened

HOSTILE = "<img src=x onerror=window.hit=1>", '"><svg onload=window.hit=1>', "{{ 7 * 7 }} \u202e"


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """One repeat of all folds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REPEATS", 1)
        yield


def adapt(photos: Path, output: Path, *more: object) -> Result:
    asked = ("adapt", "--backbone", "tiny", "--device", "cpu", "-m", "gda")
    return fsbench(*asked, "-d", photos, "-O", output, *more)


def draw(path: Path, color: int, seed: int) -> None:
    """A picture of one of three colors with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60, (64, 64, 3), dtype=np.uint8)
    pixels[..., color] += 180
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hostile classes of eight pictures, one picture in the wrong class, and one copy."""
    root = tmp_path_factory.mktemp("home") / "photos"
    for label, name in enumerate(HOSTILE):
        for index in range(8):
            file = f"{index} {HOSTILE[(label + 1) % 3]}.jpg"
            draw(root / name / file, label, 100 * label + index)
    draw(root / HOSTILE[0] / "planted.jpg", 1, 999)
    draw(root / HOSTILE[2] / "copy.jpg", 2, 200)
    return root


@pytest.fixture(scope="module")
def model(photos: Path) -> Path:
    folder = photos.parent / "model"
    done = adapt(photos, folder)
    assert done.code == 0, done
    return folder


def test_the_page_states_the_numbers_of_the_config(model: Path) -> None:
    config = read_config(model)
    page = Page((model / "report.html").read_text(encoding="utf-8"))
    mean, low, high = (f"{100 * config.accuracy[name]:.1f}" for name in ("mean", "low", "high"))
    assert f"{mean} % accuracy on images that were held out" in page.text
    assert f"between {low} and {high} %" in page.text
    for row in config.classes:
        assert f"{100 * row['recall']:.1f}" in page.text
    assert "1 copy of other pictures" in page.text
    assert not page.named("script")


def test_a_planted_error_leads_the_suspects_and_the_mistakes(model: Path) -> None:
    with (model / "suspects.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert first["image"].endswith("/planted.jpg")
    assert first["label"] == HOSTILE[0]
    assert first["suggested"] == HOSTILE[1]
    assert first["rank"] == "1"
    assert 0 <= float(first["p_label"]) < float(first["probability"]) <= 1
    html = (model / "report.html").read_text(encoding="utf-8")
    for part in ("mistakes", "suspects"):
        section = html[html.index(f'id="{part}"') :].partition("</section>")[0]
        pictures = section.count('<img src="data:image/jpeg;base64,')
        assert pictures == section.count("<li") >= 1
        assert "planted.jpg" in section.partition("</li>")[0]


def copied(rows: list[dict[str, str]], file: Path) -> Path:
    file.write_text(write_csv(rows, HEADS), encoding="utf-8")
    return file


def test_corrections_of_many_labels_are_warned_of(photos: Path, tmp_path: Path) -> None:
    """A model that is measured by labels that were made right for it looks better than it is."""
    rows = [(f"{HOSTILE[0]}/{index} {HOSTILE[1]}.jpg", "", HOSTILE[1]) for index in range(3)]
    made = fb.adapt(
        photos, tmp_path / "m", method="gda", backbone="tiny", device="cpu", relabel=rows
    )
    assert any(note.startswith("warning: 12 % of the images were changed") for note in made.notes)


def test_suspects_correct_the_next_model(photos: Path, model: Path, tmp_path: Path) -> None:
    with (model / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    same = adapt(photos, tmp_path / "same", "--relabel", copied(rows, tmp_path / "same.csv"))
    assert "0 labels corrected, 0 images left out (--relabel): x in the column accept" in same.out
    assert read_config(tmp_path / "same").tensors == read_config(model).tensors
    assert "original" not in read_config(tmp_path / "same").accuracy
    rows[0]["accept"] = "x"
    copied(rows, tmp_path / "right.csv")
    done = adapt(photos, tmp_path / "better", "--relabel", tmp_path / "right.csv")
    assert done.code == 0, done
    before, after = (read_config(folder) for folder in (model, tmp_path / "better"))
    # Half of the images of a class but at most four choose the settings.
    assert [before.data["images"][name] for name in HOSTILE[:2]] == [5, 4]
    assert [after.data["images"][name] for name in HOSTILE[:2]] == [4, 5]
    assert after.accuracy["mean"] > before.accuracy["mean"]
    original = f"{100 * after.accuracy['original']:.1f} %"
    assert after.accuracy["original"] < after.accuracy["mean"]
    assert f"; {original} by the labels before --relabel" in done.out
    page = Page((tmp_path / "better" / "report.html").read_text(encoding="utf-8"))
    assert f"{original} by the labels before they were corrected" in page.text
    assert original in (tmp_path / "better" / "README.md").read_text(encoding="utf-8")
    assert "warning" not in done.out
    assert "planted.jpg" not in (tmp_path / "better" / "suspects.csv").read_text(encoding="utf-8")


def test_corrections_in_the_folder_of_the_model_stay(photos: Path, model: Path) -> None:
    before = (model / "suspects.csv").read_bytes()
    done = adapt(photos, model, "--force", "--relabel", model / "suspects.csv")
    assert done.code == 2
    assert "copy it elsewhere" in done.err
    assert (model / "suspects.csv").read_bytes() == before


def test_foreign_names_are_only_text(model: Path) -> None:
    page = Page((model / "report.html").read_text(encoding="utf-8"))
    sources = [attributes["src"] for attributes in page.named("img")]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]
    assert HOSTILE[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page.text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_without_held_out_images_there_are_no_suspects(tmp_path: Path) -> None:
    for label in range(2):
        draw(tmp_path / "photos" / str(label) / "0.jpg", label, label)
    done = adapt(tmp_path / "photos", tmp_path / "model")
    assert done.code == 0, done
    assert "mistakes" not in done.out
    assert not (tmp_path / "model" / "suspects.csv").exists()
    page = Page((tmp_path / "model" / "report.html").read_text(encoding="utf-8"))
    assert "No accuracy is stated" in page.text
    assert not page.named("img")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_browser_loads_nothing_and_scrolls_tables_alone(
    browser: Any, model: Path, width: int
) -> None:
    seen = opened(browser, model / "report.html", viewport={"width": width, "height": 844})
    seen.page.wait_for_timeout(100)
    assert seen.page.evaluate("window.hit") is None
    assert seen.complaints == []
    assert seen.requests[0] == (model / "report.html").as_uri()
    assert all(url.startswith("data:image/jpeg") for url in seen.requests[1:])
    assert seen.page.evaluate("document.documentElement.scrollWidth") == width
    box = seen.page.locator(".verdict").bounding_box()
    assert box["y"] + box["height"] <= 844


def test_the_page_follows_the_color_scheme_and_the_keyboard(browser: Any, model: Path) -> None:
    page = opened(browser, model / "report.html", color_scheme="dark").page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
