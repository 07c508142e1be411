"""Figures of papers: what they show, what is missing, and their files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.figures import kinds
from fewshot_bench.analysis.figures.drawing import legend_columns
from fewshot_bench.analysis.figures.style import KINDS, SIZES, Style, read_size
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import ALL_SHOTS
from tests.support.compare_records import halves, make, matrix, read_csv, save
from tests.support.helpers import fsbench

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


def test_a_method_that_learns_nothing_is_a_star_or_a_line(tmp_path: Path) -> None:
    zero = [
        dataclasses.replace(record, footprint={"trained": 0, "stored": 0})
        for record in matrix(methods=("zero-shot",))
    ]
    results = fb.load(save(tmp_path / "s", [*matrix(methods=("coop",)), *zero]))
    star = results.figure().figure.axes[0]
    assert [list(line.get_xdata()) for line in star.get_lines()] == [[1, 4], [0]]
    assert [tick.get_text() for tick in star.get_xticklabels()] == ["0", "1", "4"]
    level = results.figure(zero_shot="line").figure.axes[0]
    assert [tick.get_text() for tick in level.get_xticklabels()] == ["1", "4"]
    assert list(level.get_lines()[1].get_xdata()) == [0, 1]


def test_ours_stands_out_and_keeps_its_color_under_a_new_name(store: Path) -> None:
    results = fb.load(store)
    plain = results.figure().figure
    ours = results.figure(ours="coop", rename={"coop": "Ours"}, spread="none").figure
    (before,) = (line for line in plain.axes[0].get_lines() if line.get_label() == "coop")
    (after,) = (line for line in ours.axes[0].get_lines() if line.get_label() == "Ours")
    assert before.get_color() == after.get_color()
    assert after.get_linewidth() > before.get_linewidth()
    assert (len(plain.axes[0].collections), len(ours.axes[0].collections)) == (2, 0)
    (words,) = (t for t in ours.legends[0].get_texts() if t.get_text() == "Ours")
    assert words.get_fontweight() == "bold"


def test_base_new_and_their_mean_are_bars(tmp_path: Path) -> None:
    found = [
        record
        for name in ("dtd", "pets")
        for seed in (1, 2, 3)
        for record in (
            *halves("coop", name, seed, 80.0, 60.0),
            *halves("b", name, seed, 70.0, 70.0),
        )
    ]
    lost = found.index(next(r for r in found if (r.spec.method, r.spec.classes) == ("b", "new")))
    results = fb.load(save(tmp_path / "s", [*found[:lost], *found[lost + 1 :]]))
    drawing = results.figure("base-new")
    titles = [axes.get_title() for axes in drawing.figure.axes]
    assert titles == ["average", "dtd", "pets"]
    bars = [bar.get_height() for bar in drawing.figure.axes[2].patches]
    assert sorted(bars) == pytest.approx([60.0, 68.571429, 70.0, 70.0, 70.0, 80.0])
    assert drawing.figure.axes[0].get_ylim()[0] == 0
    assert {row["scope"] for row in drawing.rows} == {"base", "new", "H"}
    with pytest.raises(fb.UsageError, match="no record here is of base or new classes"):
        fb.load(save(tmp_path / "t", matrix())).figure("base-new")


def test_bars_of_one_color_differ_by_hatches(tmp_path: Path) -> None:
    names = ("zero-shot", "cocoop", "clip-lora")
    found = [r for name in names for r in halves(name, "dtd", 1, 80.0, 60.0)]
    drawing = fb.load(save(tmp_path / "s", found)).figure("base-new")
    bars = drawing.figure.axes[0].patches
    looks = {(bar.get_facecolor(), bar.get_hatch() or "") for bar in bars}
    assert len({color for color, _ in looks}) == 2
    assert len(looks) == 3


def test_names_of_marks_do_not_overlap(tmp_path: Path) -> None:
    found = [
        dataclasses.replace(
            make(f"method-number-{index}", top1=70.0 + index % 3),
            footprint={"trained": 1000 * (index % 4), "peak_memory_mb": 400.0},
        )
        for index in range(9)
    ]
    drawing = fb.load(save(tmp_path / "s", found)).figure("cost", size="6x4", cost="trained")
    figure = drawing.figure
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 9
    pairs = [(a, b) for index, a in enumerate(boxes) for b in boxes[index + 1 :]]
    assert not [pair for pair in pairs if pair[0].overlaps(pair[1])]
    assert axes.get_xscale() == "symlog"
    with pytest.raises(fb.UsageError, match="one number of shots, and there are 1, 4"):
        fb.load(save(tmp_path / "t", matrix())).figure("cost")


@pytest.mark.parametrize("name", SIZES)
def test_a_figure_has_the_size_of_its_venue(store: Path, name: str) -> None:
    size = SIZES[name]
    figure = fb.load(store).figure(size=name, font="serif").figure
    assert figure.get_figwidth() == size.width
    assert size.height in (None, figure.get_figheight())
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    assert legend.get_texts()[0].get_fontsize() == size.font


def test_sizes_are_names_or_inches() -> None:
    assert (read_size("6x4").width, read_size("6x4").height) == (6.0, 4.0)
    assert read_size("3.25").height is None
    for wrong, said in (("cvpr", "did you mean"), ("0x4", "expected inches"), ("1x2x3", "inches")):
        with pytest.raises(ValueError, match=said):
            read_size(wrong)


def test_long_names_have_a_legend_of_several_lines() -> None:
    style = Style(SIZES["cvpr-column"])
    assert legend_columns(style, ["a", "b", "c"]) == 3
    assert legend_columns(style, ["a long name of a method" * 2] * 3) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("shots", "-O", "x.gif"), "expected a name that ends in .pdf, .svg, .png"),
        (("shots", "-O", "/nowhere/x.pdf"), "expected a file in a folder that is there"),
        (("shots", "-O", "x.pdf", "-O", "x.pdf"), "stands there twice"),
        (("shots", "-O", "x.pdf", "--data", "x.txt"), "ends in .csv"),
        (("shots", "-O", "x.pdf", "--each"), "--each belongs to figures of kind ablation"),
        (("shots", "-O", "x.pdf", "-o", "rank=1"), "--option belongs to figures of kind ablation"),
        (("cost", "-O", "x.pdf", "--zero-shot", "line"), "belongs to figures of kind shots"),
        (("cost", "-O", "x.pdf", "--shots", "1", "--cost", "time"), "unknown cost 'time'"),
        (("shots", "-O", "x.pdf", "--size", "cvpr"), "unknown size 'cvpr'"),
        (("shots", "-O", "x.pdf", "--ours", "cop"), "did you mean 'coop'"),
        (("bars", "-O", "x.pdf"), "'bars' is not one of"),
        (("shots",), "missing option '-O'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    store: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = fsbench("figure", *words, "--store", store)
    assert (done.code, said in done.err) == (2, True), done
    assert not list(tmp_path.iterdir())


def test_every_kind_is_described() -> None:
    assert kinds._KINDS.keys() == KINDS.keys()
    shown = fsbench("figure", "--help").out
    for name in KINDS:
        assert re.search(rf"^  {name} ", shown, re.MULTILINE)
