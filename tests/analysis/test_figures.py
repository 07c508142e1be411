"""Figures of papers: what they show, what is missing, and their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALL_SHOTS
from tests.compare_records import make, matrix, read_csv, save
from tests.helpers import fsbench

NAMES = ("a_b", "50% #1 $x$", "plain")
OPTIONS: dict[str, Any] = {"overrides": {"steps": 15}, "options": {"steps": 15}}
RENAMES = ("--rename", "bias-tuning[steps=15]=Ours", "--rename", "dtd=DTD (textures)")


def records() -> list[Record]:
    own = [
        make("bias-tuning", dataset=name, shots=k, seed=seed, top1=70.0 + seed, **OPTIONS)
        for name in ("dtd", "pets")
        for k in (1, 4)
        for seed in (1, 2, 3)
    ]
    zero = [make("zero-shot", dataset=name, shots=0) for name in ("dtd", "pets")]
    return [*matrix(methods=("coop",)), *own, *zero]


def drawn(store: Path, file: Path, *words: object) -> str:
    """Draw to a file; returns what was said."""
    done = fsbench("figure", *words, "--store", store, "-O", file)
    assert done.code == 0, done
    return done.err


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("figures") / "store", records())


@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_curves_are_drawn(store: Path, tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"curves.{ending}"
    words = ("shots", *RENAMES, "--ours", "bias-tuning")
    assert f"{file}: 3 panels" in drawn(store, file, *words)
    data = file.read_bytes()
    assert data.startswith({"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[ending])
    drawn(store, file, *words)
    assert file.read_bytes() == data
    if ending == "pdf":
        assert b"/FontFile2" in data
    if ending == "svg":
        text = data.decode()
        titles = [text.index(f">{name}<") for name in ("average", "DTD (textures)", "pets")]
        assert titles == sorted(titles)
        for name in ("Ours", "coop", "zero-shot"):
            assert text.count(f">{name}<") == 1
        assert signature_of(records()) in text


def test_the_numbers_stand_beside_the_figure(store: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "n.csv"
    drawn(store, tmp_path / "f.svg", "shots", "--data", numbers, "--spread", "std")
    lines = read_csv(numbers.read_text())
    (one,) = (
        line
        for line in lines
        if (line["dataset"], line["method"], line["shots"])
        == ("pets", "bias-tuning[steps=15]", "4")
    )
    assert [float(one[name]) for name in ("mean", "low", "high")] == [72.0, 71.0, 73.0]
    assert {line["shots"] for line in lines if line["method"] == "zero-shot"} == {"0"}


def test_a_missing_number_is_a_gap_and_said(tmp_path: Path) -> None:
    found = [make(k, dataset=name, shots=s) for k in NAMES for name in NAMES[:2] for s in (1, 2, 4)]
    kept = [record for record in found if record.spec != found[1].spec]
    store, numbers = save(tmp_path / "s", kept), tmp_path / "n.csv"
    said = drawn(store, tmp_path / "c.svg", "shots", "--data", numbers)
    assert "note: 1 cell missing" in said
    assert "missing: fsbench run " in said
    lines = [line for line in read_csv(numbers.read_text()) if line["status"] == "missing"]
    assert [(line["mean"], line["shots"]) for line in lines] == [("", "2")] * 2
    figure = fb.load(store).figure()
    assert len(figure.missing) == 2
    heights = [list(one.get_ydata()) for axes in figure.figure.axes for one in axes.get_lines()]
    assert sum(value != value for ys in heights for value in ys) == 2


def test_all_train_images_stand_beside_the_numbers_of_shots(tmp_path: Path) -> None:
    store = save(tmp_path / "s", matrix(shots=(1, 4, 16, ALL_SHOTS)))
    for axes in fb.load(store).figure().figure.axes:
        assert list(axes.get_xticks()) == list(axes.lines[0].get_xdata()) == [1, 4, 16, 32]
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "16", "all"]
