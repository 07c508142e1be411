"""`fsbench compare --layout sweep`: results of a method over its options."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis import formats
from fewshot_bench.analysis.sweep.panels import SweepOptions, document, sweep_of
from fewshot_bench.analysis.table.build import build
from tests.support.compare_records import make, save, swept
from tests.support.helpers import fsbench

# The options of Figure 3 of CLIP-LoRA, with fewer values.
FIGURE_3 = (
    *("-o", "rank=1,2,4", "-o", "matrices=q,qkvo"),
    *("-o", "encoder=vision,text,both", "-o", "position=all,top-half"),
)
SMALL = ("-o", "rank=1,2,4", "-o", "matrices=q,qv")
SWEEP = ("compare", "--layout", "sweep", "-m", "clip-lora")
DRAWN = ("figure", "ablation", "-m", "clip-lora")


def rows(store: Path, *words: object) -> list[dict[str, Any]]:
    shown = fsbench(*SWEEP, "--store", store, "--format", "json", *words)
    assert shown.code == 0, shown
    lines: list[dict[str, Any]] = json.loads(shown.out)["rows"]
    return lines


def test_figure_3_is_drawn(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(FIGURE_3, seeds=(1,)))
    target = tmp_path / "figure.svg"
    shown = fsbench(*SWEEP, *FIGURE_3, "--store", store)
    assert shown.code == 0, shown
    assert fsbench(*DRAWN, *FIGURE_3, "--store", store, "-O", target).code == 0
    lines = shown.out.splitlines()
    heads = [line for line in lines if line.startswith("clip-lora on dtd, 4-shot")]
    assert len(heads) == 6
    assert heads[0].endswith("top-1 accuracy in %, 60.25 to 80.25")
    start = next(i for i, line in enumerate(lines) if "encoder text, position top-half" in line)
    assert lines[start + 1].split() == ["matrices", "\\", "rank", *["1", "2", "4"]]
    assert lines[start + 3].split() == ["q", *(f"{60.25 + n:.2f}" for n in range(3))]
    assert lines[start + 4].split() == ["qkvo", *(f"{78.25 + n:.2f}" for n in range(3))]
    assert "missing" not in shown.out
    signature = "".join(shown.out[shown.out.index("fsbench:1") :].split())
    assert signature.count("|m:clip-lora@") == 1
    assert "||" not in signature
    text = " ".join(ElementTree.parse(target).getroot().itertext())
    assert text.count("60.25") >= 6
    assert "encoder text, position top-half" in text


def test_what_is_missing_is_shown_and_not_filled(tmp_path: Path) -> None:
    records = swept(SMALL, ("dtd", "pets"))
    gone = [r for r in records if (r.spec.options["rank"], r.spec.options["matrices"]) == (2, "qv")]
    kept = [r for r in records if r not in gone]
    kept += [r for r in gone if r.spec.dataset == "dtd" and r.spec.train_seed < 3]
    failed = [r for r in kept if r.spec.options["rank"] == 4 and r.spec.options["matrices"] == "q"]
    kept = [dataclasses.replace(r, status="failed", metrics={}) if r in failed else r for r in kept]
    store = save(tmp_path / "store", kept)
    shown = fsbench(*SWEEP, *SMALL, "--each", "--store", store).out
    average, dtd, pets = (part.splitlines() for part in shown.split("\n\n")[:3])
    assert average[0].startswith("clip-lora on average, 4-shot")
    assert average[3].split() == ["q", "65.50", "66.50", "failed"]
    assert average[4].split() == ["qv", "77.50", "—", "79.50"]
    assert dtd[4].split() == ["qv", "72.50", "73.38*", "74.50"]
    assert pets[4].split() == ["qv", "82.50", "—", "84.50"]
    assert "* 2 of 18 cells missing; not interpolated" in shown
    assert "* 1 of 18 cells over fewer seeds" in shown
    lines = rows(store, *SMALL)
    hole = next(r for r in lines if (r["option_rank"], r["option_matrices"]) == (2, "qv"))
    assert (hole["mean"], hole["n_seeds"], hole["status"]) == (None, 0, "missing")
    assert hole["missing"] == ["dtd seed 3", "pets seed 1", "pets seed 2", "pets seed 3"]


def test_commands_run_combinations_without_records(tmp_path: Path) -> None:
    gone = ((2, "qv"), (4, "qv"))
    kept = [
        r
        for r in swept((*SMALL, "-o", "iterations=3"))
        if (r.spec.options["rank"], r.spec.options["matrices"]) not in gone
    ]
    store = save(tmp_path / "store", kept)
    words = (*SMALL, "-o", "iterations=3", "--store", store)
    shown, drawn = fsbench(*SWEEP, *words), fsbench(*DRAWN, *words, "-O", tmp_path / "a.svg")
    for said in (shown.out, drawn.out + drawn.err):
        (line,) = (line for line in said.splitlines() if "fsbench run " in line)
        options = "-o clip-lora.iterations=3 -o clip-lora.matrices=qv -o clip-lora.rank=2,4"
        assert f"--method clip-lora {options} --dataset dtd --shots 4 --seeds 1-3 " in line


def test_what_is_no_number_is_missing() -> None:
    """JSON's 1e999 is infinite in Python."""
    first, *others = swept(("-o", "rank=1,32", "-o", "matrices=qkv"))
    for number in (float("inf"), 10**400, True, "71.5", None):
        records = [dataclasses.replace(first, metrics={"top1": number}), *others]
        sweep = sweep_of(build(records), SweepOptions({"rank": (1, 32)}))
        assert [cell.status for cell in sweep.panels[0].cells.values()] == ["partial", "done"]
        assert "75.62*" in formats.render(document(sweep, "terminal"), "terminal")


def test_other_options_have_the_defaults_or_the_one_value_given(tmp_path: Path) -> None:
    short = swept((*SMALL, "-o", "iterations=3"))
    other = [dataclasses.replace(r, metrics={"top1": 1.0}) for r in short]
    store = save(tmp_path / "store", [*swept(SMALL), *other])
    assert {row["mean"] for row in rows(store, *SMALL)} == {60.5, 61.5, 62.5, 72.5, 73.5, 74.5}
    fixed = rows(store, *SMALL, "-o", "iterations=3")
    assert {(row["mean"], row["method"]) for row in fixed} == {(1.0, "clip-lora[iterations=3]")}
    assert {row["option_iterations"] for row in rows(store)} == {3, 500}
    shown = fsbench(*SWEEP, *SMALL, "--store", store, "-o", "iterations=9")
    assert (shown.code, "no record has these options" in shown.err) == (3, True)


def test_conditions_stand_in_blocks_and_can_be_chosen(tmp_path: Path) -> None:
    records = [*swept(SMALL), *swept(SMALL, val="none"), *swept(SMALL, ("pets",))]
    store = save(tmp_path / "store", records)
    shown = fsbench(*SWEEP, *SMALL, "--store", store).out
    assert [line for line in shown.splitlines() if line.startswith("Conditions")] == [
        "Conditions 1 of 2: val min4",
        "Conditions 2 of 2: val none",
    ]
    assert len(rows(store, *SMALL, "--val", "none", "--shots", "4")) == 6
    chosen = rows(store, *SMALL, "--val", "min4", "--dataset", "pets")
    assert {row["dataset"] for row in chosen} == {"pets"}


def test_equal_records_give_equal_figures(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL)[:-4])
    starts = {"1.svg": b"<?xml", "2.svg": b"<?xml", "1.pdf": b"%PDF", "1.png": b"\x89PNG"}
    for name, start in starts.items():
        assert fsbench(*DRAWN, *SMALL, "--store", store, "-O", tmp_path / name).code == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()


def test_the_library_draws_the_same(tmp_path: Path) -> None:
    results = fb.load(save(tmp_path / "store", [*swept(SMALL), make("coop")]))
    values = {"rank": [1, 2, 4], "matrices": ["q", "qv"]}
    own = results.where(method="clip-lora")
    table = own.compare(layout="sweep", options=values)
    assert json.loads(table.to_json())["rows"] == rows(results.store, *SMALL)
    assert "background:rgb(253,231,37)" in table.to_html()
    drawing = own.figure("ablation", options=values)
    assert [row["mean"] for row in drawing.rows] == [row["mean"] for row in rows(results.store)]
    # Without options, those that vary.
    assert set(own.compare(layout="sweep").to_frame()["option_rank"]) == {1, 2, 4}
    with pytest.raises(fb.UsageError, match="one method, and there are 'clip-lora@2', 'coop@1'"):
        str(results.compare(layout="sweep"))
    for more in ({"options": values}, {"each": True}, {"layout": "sweep", "baseline": "coop"}):
        with pytest.raises(fb.UsageError, match="layout='sweep'"):
            results.compare(**more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-o", "rank=2"], 2, "nothing varies in the options of clip-lora@"),
        (["-o", "ranks=2,3"], 2, "unknown hyper-parameter of clip-lora 'ranks'"),
        (["-o", "matrices=q,x"], 2, "distinct letters of q, k, v, o, m"),
        (["-o", "rank=1,2", "--baseline", "coop"], 2, "has no room for --baseline"),
        (["-o", "rank=1,2", "--layout", "full"], 2, "--option belongs to --layout sweep"),
        (["-o", "rank=1,2", "--store", "nowhere"], 3, "does not exist"),
    ],
)
def test_wrong_requests_are_one_error(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    store = save(tmp_path / "store", swept(("-o", "rank=2", "-o", "matrices=qkv")))
    shown = fsbench(*SWEEP, "--store", store, *words)
    assert shown.code == code, shown
    assert said in shown.err


@pytest.mark.slow
def test_what_a_run_spans_is_drawn(tmp_path: Path) -> None:
    words = ("-m", "coop", "-o", "epochs=1,2", "-o", "context_tokens=2,4", "--store", tmp_path)
    cells = ("--dataset", "digits", "--shots", "1", "--seeds", "1", "--limit", "20", "--jobs", "1")
    assert fsbench("run", *words, *cells).code == 0
    for more in (words, words[-2:]):
        shown = fsbench("compare", "--layout", "sweep", "--format", "json", *more)
        assert [row["status"] for row in json.loads(shown.out)["rows"]] == ["done"] * 4


def test_hostile_names_steer_nothing(tmp_path: Path) -> None:
    name = '=1+$x$\x1b[2J<b>&_^{"'
    store = save(tmp_path / "store", swept(SMALL, (name,)))
    target = tmp_path / "figure.svg"
    shown = fsbench(*SWEEP, *SMALL, "--store", store)
    assert shown.code == 0, shown
    assert "\x1b" not in shown.out
    assert fsbench(*DRAWN, *SMALL, "--store", store, "-O", target).code == 0
    root = ElementTree.parse(target).getroot()
    tags = {part.tag.partition("}")[2] for part in root.iter()}
    assert not {"script", "a", "foreignObject"} & tags
    assert "=1+$x$\ufffd[2J<b>&_^{" in "".join(root.itertext())
    table = fsbench(*SWEEP, *SMALL, "--store", store, "--format", "csv").out
    lines = list(csv.DictReader(io.StringIO(table)))
    assert {line["dataset"][:2] for line in lines} == {"'="}
    assert rows(store, *SMALL)[0]["dataset"] == name


def test_a_figure_states_the_signature_of_the_table(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, backbone="ViT-B-16/openai", weights="ab" * 32))
    target = tmp_path / "figure.svg"
    shown = fsbench(*SWEEP, *SMALL, "--store", store)
    assert fsbench(*DRAWN, *SMALL, "--store", store, "-O", target).code == 0
    assert "; backbone ViT-B-16/openai; precision fp32; " in shown.out
    drawn = "\n".join(ElementTree.parse(target).getroot().itertext())
    (stated,) = (line for line in drawn.splitlines() if line.startswith("fsbench:1"))
    assert stated == "".join(shown.out[shown.out.index("fsbench:1") :].split())


def test_characters_that_the_font_lacks_are_one_warning(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, ("\u6c49\u5b57",)))
    for suffix, said in (("png", "2 characters are boxes in the figure, whose font"), ("svg", "")):
        target = tmp_path / f"figure.{suffix}"
        shown = fsbench(*DRAWN, *SMALL, "--store", store, "-O", target)
        assert (shown.code, said in shown.err) == (0, True)
        assert shown.err.count("warning: ") == bool(said)


def test_marks_and_notes_are_those_of_the_table(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, val="full", limit=60, split_seed=1, digest="d"))
    shown = json.loads(fsbench(*SWEEP, *SMALL, "--store", store, "--format", "json").out)
    assert {tuple(row["marks"]) for row in shown["rows"]} == {
        ("unfair validation", "limited to 60", "crossed seeds")
    }
    notes = "\n".join(shown["meta"]["notes"])
    assert "had the full validation set" in notes
    assert "only 60 queries per data set" in notes
    assert "chosen on test data" in notes


def test_an_average_is_the_one_of_the_table(tmp_path: Path) -> None:
    """The mean 65.865 is below that number in binary, and the sum divided by two is above it."""
    top1 = {"dtd": 66.23, "pets": 65.5}
    made = [
        dataclasses.replace(record, metrics={"top1": top1[record.spec.dataset]})
        for record in swept(SMALL, ("dtd", "pets"), seeds=(1,))
    ]
    drawn = fsbench(*SWEEP, *SMALL, "--store", save(tmp_path / "store", made)).out
    assert ("65.86" in drawn, "65.87" in drawn) == (True, False)


def test_what_is_not_drawn_beside_an_average_is_named(tmp_path: Path) -> None:
    halves = swept(SMALL, ("dtd",), classes="base", digest="of base classes")
    store = save(tmp_path / "s", [*swept(SMALL, ("dtd", "pets")), *halves])
    shown = fsbench(*SWEEP, *SMALL, "--store", store).out
    assert "* not drawn beside the average: dtd (base) (--each draws them)" in shown
    assert "|c:" not in shown[shown.index("fsbench:1") :]
    every = fsbench(*SWEEP, *SMALL, "--store", store, "--each").out
    assert "on dtd (base), 4-shot" in every
    assert "not drawn" not in every


def test_one_option_gives_a_curve_whose_axis_fits_the_numbers(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(("-o", "rank=1,2,32", "-o", "matrices=qkv")))
    shown = fsbench(*SWEEP, "-o", "rank=1,2,4,32", "--store", store).out
    lines = [re.split(r"\s{2,}", line) for line in shown.splitlines() if line[:1].isdigit()]
    assert [line[:2] for line in lines] == [
        ["1", "75.50 ±0.62"],
        ["2", "76.50 ±0.62"],
        ["4", "—"],
        ["32", "80.50 ±0.62"],
    ]
    points = [line[-1].index("●") for line in lines if "●" in line[-1]]
    assert points == [0, 8, 39]
    assert re.search(r"^rank +top-1 +75\.50 +80\.50$", shown, re.MULTILINE)
    target = tmp_path / "figure.svg"
    words = ("-o", "rank=1,2,4,32", "--store", store, "-O", target)
    assert fsbench(*DRAWN, *words).code == 0
    text = target.read_text(encoding="utf-8")
    axis = text[text.index('<g id="matplotlib.axis_2">') :]
    axis = axis[: axis.index('<g id="patch')]
    ticks = [float(n) for n in re.findall(r">([\d.]+)</text>", axis)]
    assert (65 <= min(ticks) <= 76, 80 <= max(ticks) <= 90) == (True, True)
    assert {">top-1 accuracy in %<", ">rank<"} <= set(re.findall(r">[^<>]+<", text))


@pytest.mark.parametrize(("width", "count"), [(60, 2), (60, 0), (300, 2)])
def test_every_number_is_there_in_any_width(width: int, count: int) -> None:
    """24 ranks in columns, a cell's value is its rank; count: values of the second option."""
    matrices = [f"{number} and a long value of an option" for number in range(count)] or ["q"]
    records = [
        make("clip-lora", "dtd", 4, seed, 50.0 + rank + seed / 4, options=own, overrides=own)
        for matrix in matrices
        for rank in range(1, 25)
        for seed in (1, 3)
        for own in [{"rank": rank, "matrices": matrix}]
    ]
    sweep = document(sweep_of(build(records), SweepOptions()), "terminal")
    text = formats.render(sweep, "terminal", styled=True, width=width)
    body = re.sub(r"\x1b\[[\d;]*m", "", text).partition("\nprotocol")[0]
    assert max(map(len, body.splitlines())) <= width
    body = re.sub(r"in\s+%,\s+[\d.]+\s+to\s+[\d.]+", "", body)
    numbers = re.findall(r"(?<![\d.–(])\d\d\.\d\d(?![\d.–)])", body)
    ranks = [*range(1, 25)] * count or [*range(1, 25), 1, 24]
    # The ends of a curve's axis are numbers, too.
    assert sorted(numbers) == sorted(f"{50.5 + rank:.2f}" for rank in ranks)


def test_cells_that_are_equal_to_two_decimals_are_both_best() -> None:
    records = [
        make("clip-lora", "dtd", 4, seed, top1, options={"rank": rank}, overrides={"rank": rank})
        for rank, top1 in ((1, 60.001), (2, 60.004), (4, 59.9))
        for seed in (1, 2, 3)
    ]
    sweep = sweep_of(build(records), SweepOptions())
    (panel,) = sweep.panels
    assert [sweep.is_best(panel, cell) for cell in panel.cells.values()] == [True, True, False]
