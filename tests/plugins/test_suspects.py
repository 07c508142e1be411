"""Suspect labels: confident learning, its file, and corrections that `adapt --relabel` takes."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.formats.tidy import write_csv
from fewshot_bench.plugins.models import adapt as module
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.learned import Learned
from fewshot_bench.plugins.models.suspects import (
    HEADS,
    find_suspects,
    rank_suspects,
    remark,
)
from fewshot_bench.store.kept_models import read_config
from tests.reference import confident_learning
from tests.support.helpers import Result, fsbench, save_image


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


def answers(
    seed: int, images: int, classes: int, planted: float, favor: float = 4
) -> tuple[np.ndarray, ...]:
    """(true, given, shares): probabilities that favor the true label, some given labels wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=images)
    logits = rng.normal(size=(images, classes)) + favor * np.eye(classes)[true]
    wrong = rng.random(images) < planted
    given = np.where(wrong, (true + rng.integers(1, classes, images)) % classes, true)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return true, given, shares


@pytest.mark.parametrize("seed", range(6))
def test_suspects_are_those_of_the_reference(seed: int) -> None:
    _, given, shares = answers(seed, images=30 + 30 * seed, classes=2 + seed, planted=0.06 * seed)
    found, doubts = rank_suspects(given, shares)
    expected = confident_learning.doubts(given.tolist(), shares)
    assert doubts == pytest.approx(expected, abs=1e-6)
    assert found.tolist() == confident_learning.suspects(
        given.tolist(), shares, round(sum(expected))
    )


@pytest.mark.parametrize("count", [1, 2])
def test_single_errors_are_found_by_a_model_that_is_always_right(count: int) -> None:
    true, given, shares = answers(1, images=200, classes=4, planted=0, favor=7)
    given[:count] = (true[:count] + 1) % 4
    found, _ = rank_suspects(given, shares)
    assert sorted(found) == list(range(count))


@pytest.mark.parametrize("planted", [0.0, 0.05, 0.1, 0.3])
def test_no_more_are_listed_than_labels_are_wrong(planted: float) -> None:
    true, given, shares = answers(0, images=1000, classes=5, planted=planted)
    wrong = true != given
    found, _ = rank_suspects(given, shares)
    assert abs(len(found) - wrong.sum()) <= 0.02 * len(given)
    assert (shares[found].argmax(axis=1) != given[found]).all()
    if planted:
        assert wrong[found].mean() >= 0.75
        assert wrong[found].sum() >= 0.75 * wrong.sum()


def test_a_class_of_low_confidence_is_held_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a class that is always less certain are not suspect before others."""
    shares = np.array([[0.9, 0.05, 0.05]] * 8 + [[0.4, 0.15, 0.45]] * 8 + [[0.45, 0.1, 0.45]])
    shares[16] = 0.41, 0.2, 0.39
    shares[7] = 0.3, 0.6, 0.1
    given = np.array([0] * 8 + [2] * 9)
    monkeypatch.setattr(estimates, "doubts", lambda labels, shares: np.full(len(labels), 1 / 17))
    assert rank_suspects(given, shares)[0].tolist() == [7]


def test_a_model_that_tells_nothing_says_so() -> None:
    rng = np.random.default_rng(0)
    given = np.repeat([0, 1], 30)
    noise = 0.1 * rng.normal(size=(60, 2))
    noise[::2] = -noise[1::2]
    shares = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
    learned = learned_of(given, shares, tuple(f"{number}" for number in range(60)))
    assert len(find_suspects(learned)) < 20
    assert "too low to tell" in remark(learned)


def test_a_good_model_says_how_many_suspects_are_wrong() -> None:
    true, given, shares = answers(3, images=300, classes=2, planted=0.1)
    learned = learned_of(given, shares, tuple(f"{number}" for number in range(300)))
    said = re.fullmatch(
        r"about (\d+) % of the labels may be wrong, (\d+) % of (\d+) suspect labels",
        remark(learned),
    )
    assert said
    found = find_suspects(learned)
    right = [true[int(row["image"])] != given[int(row["image"])] for row in found]
    assert abs(int(said[1]) - 10) <= 3
    assert abs(int(said[2]) - 100 * np.mean(right)) <= 15
    assert int(said[3]) == len(found)


def learned_of(given: np.ndarray, shares: np.ndarray, ids: tuple[str, ...]) -> Learned:
    return Learned(
        ids, given, np.arange(len(ids)), ("birch", "oak"), shares[None].astype(np.float32)
    )


def test_only_images_that_were_held_out_are_suspects() -> None:
    shares = np.array([[0.99, 0.01]] * 20 + [[0.01, 0.99], [np.nan, np.nan]])
    learned = learned_of(np.zeros(22, dtype=int), shares, tuple("abcdefghijklmnopqrstuv"))
    (row,) = find_suspects(learned)
    assert row["image"] == "u"
    assert (row["label"], row["suggested"], row["rank"]) == ("birch", "oak", 1)
    assert row["accept"] == ""
    assert (row["probability"], row["p_label"]) == pytest.approx((0.99, 0.01))


def test_corrections_change_labels_and_leave_images_out(photos: Path, tmp_path: Path) -> None:
    rows = [
        {"image": "oak/=1+1, 2;.jpg", "label": "oak", "suggested": "birch", "accept": "x"},
        {"image": "oak/0.jpg", "label": "oak", "suggested": "-", "accept": "Yes"},
        {"image": "oak/1.jpg", "label": "oak", "suggested": "oak", "accept": "x"},
        {"image": "oak/2.jpg", "label": "oak", "suggested": "birch", "accept": ""},
        {"image": "birch/2.jpg", "label": "birch", "suggested": "oak", "accept": "no"},
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
    file.write_text(
        "image;suggested;accept\r\noak/0.jpg;birch;x\r\noak/1.jpg;birch\r\n;;\r\n",
        encoding="utf-8-sig",
    )
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
        ("image,suggested,accept\noak/9.jpg,birch,x\n", "unknown image 'oak/9.jpg'"),
        ("image,suggested,accept\noak/1.jpg,brich,x\n", "did you mean 'birch'"),
        (
            "image,suggested,accept\noak/1.jpg,birch,x\noak/1.jpg,-,x\n",
            "'oak/1.jpg' stands there twice",
        ),
        (
            "image,label,suggested,accept\noak/1.jpg,birch,oak,x\n",
            "has the label 'oak', not 'birch'",
        ),
        ("image,suggested,accept\noak/1.jpg,,x\n", "- leaves it out"),
        ("image,label,accept\noak/1.jpg,birch,x\n", "has no column 'suggested'"),
        ("image,suggested\noak/1.jpg,birch\n", "has no column 'accept'"),
        ("image,suggested,accept\noak/1.jpg,birch,birch\n", "has 'birch' in the column accept"),
        ("", "has no column 'accept', 'image', 'suggested'"),
        (
            "image,suggested,accept\n" + "".join(f"birch/{n}.jpg,oak,x\n" for n in range(3)),
            "leaves no image of 'birch'",
        ),
        ('image,suggested,accept\n"oak/1.jpg,birch\n', "is no CSV file"),
        ("image,suggested,accept\n\udcff,birch\n", "is no CSV file in UTF-8"),
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
    file.write_text("image,suggested,accept\noak/0.jpg,birch,x\n", encoding="utf-8")
    assert adapt(photos, tmp_path / "model", "--relabel", file).code == 0
    file.unlink()
    save_image(tmp_path / "new" / "oak" / "new.jpg", 77)
    added = fb.extend(tmp_path / "model", tmp_path / "new")
    assert added.config.data["images"] == {"birch": 4, "oak": 4}
