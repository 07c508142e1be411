"""Suspect labels: confident learning, its file, and corrections that `adapt --relabel` takes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.plugins.models import adapt as module
from fewshot_bench.plugins.models.learned import Learned
from fewshot_bench.plugins.models.suspects import HEADS, find_suspects, rank_suspects
from fewshot_bench.store.kept_models import read_config
from tests.helpers import Result, fsbench, save_image
from tests.reference import confident_learning


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One repeat of all folds."""
    monkeypatch.setattr(module, "REPEATS", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of each of two classes, one of them named like a formula."""
    root = tmp_path_factory.mktemp("home") / "photos"
    for label, name in enumerate(("birch", "oak")):
        for index in range(3):
            save_image(root / name / f"{index}.jpg", 100 * label + index)
    save_image(root / "oak" / "=1+1, 2;.jpg", 7)
    return root


def adapt(photos: Path, output: Path, *more: object) -> Result:
    asked = ("adapt", "--backbone", "tiny", "--device", "cpu", "-m", "zero-shot")
    return fsbench(*asked, "-d", f"folder:{photos}", "-O", output, *more)


def answers(seed: int, images: int, classes: int, planted: float) -> tuple[np.ndarray, ...]:
    """(true, given, shares): probabilities that favor the true label, some given labels wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) + 4 * np.eye(classes)[true]
    wrong = rng.random(images) < planted
    given = np.where(wrong, (true + rng.integers(1, classes, images)) % classes, true)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return true, given, shares


@pytest.mark.parametrize("seed", range(8))
def test_suspects_are_those_of_the_paper(seed: int) -> None:
    _, given, shares = answers(seed, images=40 + 30 * seed, classes=2 + seed, planted=0.05 * seed)
    found = rank_suspects(given, shares).tolist()
    assert found == confident_learning.suspects(given.tolist(), shares)


def test_planted_errors_are_found_before_others() -> None:
    true, given, shares = answers(0, images=400, classes=5, planted=0.1)
    found = rank_suspects(given, shares)
    wrong = int((true != given).sum())
    assert (true != given)[found].sum() >= 0.8 * wrong
    assert (true != given)[found[:wrong]].mean() >= 0.8
    assert (shares[found].argmax(axis=1) != given[found]).all()


def test_a_label_that_no_image_has_is_no_suspicion() -> None:
    _, given, shares = answers(1, images=30, classes=3, planted=0)
    found = rank_suspects(np.minimum(given, 1), shares)
    assert found.tolist() == confident_learning.suspects(np.minimum(given, 1).tolist(), shares)


def learned_of(given: np.ndarray, shares: np.ndarray, ids: tuple[str, ...]) -> Learned:
    return Learned(
        ids, given, np.arange(len(ids)), ("birch", "oak"), shares[None].astype(np.float32)
    )


def test_only_images_that_were_held_out_are_suspects() -> None:
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [np.nan, np.nan], [0.95, 0.05]])
    learned = learned_of(np.array([0, 1, 0, 0, 0]), shares, ("a", "b", "c", "d", "e"))
    (row,) = find_suspects(learned)
    assert row["image"] == "c"
    assert (row["label"], row["suggested"], row["rank"]) == ("birch", "oak", 1)
    assert (row["probability"], row["p_label"]) == pytest.approx((0.9, 0.1))


def test_corrections_change_labels_and_leave_images_out(photos: Path, tmp_path: Path) -> None:
    rows = [
        {"image": "oak/=1+1, 2;.jpg", "label": "oak", "suggested": "birch"},
        {"image": "oak/0.jpg", "label": "oak", "suggested": "-"},
        {"image": "oak/1.jpg", "label": "oak", "suggested": "oak"},
    ]
    file = tmp_path / "suspects.csv"
    file.write_text(write_csv(rows, HEADS), encoding="utf-8")
    done = adapt(photos, tmp_path / "model", "--relabel", file)
    assert done.code == 0, done
    assert "1 label corrected, 1 image left out" in done.out
    plain = adapt(photos, tmp_path / "plain")
    assert plain.code == 0
    made, before = read_config(tmp_path / "model"), read_config(tmp_path / "plain")
    assert made.data["images"] == {"birch": 4, "oak": 2}
    assert before.data["images"] == {"birch": 3, "oak": 4}
    assert made.data["split"] != before.data["split"]


def test_files_of_spreadsheets_and_rows_correct_labels(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "corrected.csv"
    file.write_text("image;suggested;note\r\noak/0.jpg;birch;\r\n;;\r\n", encoding="utf-8-sig")
    assert adapt(photos, tmp_path / "one", "--relabel", file).code == 0
    given = [("oak/0.jpg", "", "birch")]
    two = fb.adapt(
        f"folder:{photos}", tmp_path / "two", method="zero-shot", backbone="tiny", relabel=given
    )
    assert two.config.data["split"] == read_config(tmp_path / "one").data["split"]
    assert two.config.data["images"] == {"birch": 4, "oak": 3}
    with (tmp_path / "two" / "suspects.csv").open(encoding="utf-8", newline="") as listed:
        assert [row["image"] for row in csv.DictReader(listed)] == [*two.suspects["image"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("image,suggested\noak/9.jpg,birch\n", "unknown image 'oak/9.jpg'"),
        ("image,suggested\noak/1.jpg,brich\n", "did you mean 'birch'"),
        ("image,suggested\noak/1.jpg,birch\noak/1.jpg,-\n", "'oak/1.jpg' stands there twice"),
        ("image,label,suggested\noak/1.jpg,birch,oak\n", "has the label 'oak', not 'birch'"),
        ("image,suggested\noak/1.jpg,\n", "- leaves it out"),
        ("image,label\noak/1.jpg,birch\n", "has no column 'suggested'"),
        ("", "has no column 'image', 'suggested'"),
        (
            "image,suggested\n" + "".join(f"birch/{index}.jpg,oak\n" for index in range(3)),
            "leaves no image of 'birch'",
        ),
        ('image,suggested\n"oak/1.jpg,birch\n', "is no CSV file"),
        ("image,suggested\n\udcff,birch\n", "is no CSV file in UTF-8"),
        (None, "No such file"),
    ],
)
def test_what_corrects_nothing_is_refused_before_any_fit(
    photos: Path, tmp_path: Path, content: str | None, expected: str
) -> None:
    file = tmp_path / "wrong.csv"
    if content is not None:
        file.write_text(content, encoding="utf-8", errors="surrogateescape")
    done = adapt(photos, tmp_path / "model", "--relabel", file)
    assert done.code == 2
    assert "--relabel" in done.err
    assert expected in done.err
    assert not (tmp_path / "model").exists()


def test_corrections_hold_when_images_are_added(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "corrected.csv"
    file.write_text("image,suggested\noak/0.jpg,birch\n", encoding="utf-8")
    assert adapt(photos, tmp_path / "model", "--relabel", file).code == 0
    file.unlink()
    save_image(tmp_path / "new" / "oak" / "new.jpg", 77)
    added = fb.extend(tmp_path / "model", tmp_path / "new")
    assert added.config.data["images"] == {"birch": 4, "oak": 4}
