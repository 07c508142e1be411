"""`fsbench sweep`: varied options, drawn cells, and missing cells."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from fewshot_bench.analysis.signature import parse
from fewshot_bench.analysis.sweep.build import Axis, build
from fewshot_bench.analysis.sweep.render import render
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.runner.variants import expand_methods
from tests.compare_records import make, save
from tests.helpers import fsbench

# The options given in the issue.
FIGURE_3 = (
    *("-o", "rank=1,2,4,8,16,32", "-o", "matrices=q,k,v,o,qv,qkv,qkvo"),
    *("-o", "encoder=vision,text,both", "-o", "position=all,top-half,bottom-half"),
)
SMALL = ("-o", "rank=1,2,4", "-o", "matrices=q,qv")


def value(options: Mapping[str, Any], dataset: str, seed: int) -> float:
    """A value that identifies its cell."""
    place = ["q", "k", "v", "o", "qv", "qkv", "qkvo"].index(options["matrices"])
    return 60 + math.log2(options["rank"]) + 3 * place + 10 * (dataset == "pets") + 0.25 * seed


def swept(
    words: Iterable[str],
    datasets: Iterable[str] = ("dtd",),
    seeds: Iterable[int] = (1, 2, 3),
    **spec: Any,
) -> list[Record]:
    """Records for all combinations of the options in `words`."""
    options = [word for word in words if word != "-o"]
    return [
        make(
            "clip-lora",
            dataset,
            4,
            seed,
            value(variant.options, dataset, seed),
            options=variant.options,
            overrides=variant.overrides,
            method_version=variant.version,
            **spec,
        )
        for variant in expand_methods(("clip-lora",), options, registry())
        for dataset in datasets
        for seed in seeds
    ]


def rows(store: Path, *words: object) -> list[dict[str, Any]]:
    shown = fsbench("sweep", "clip-lora", "--store", store, "--format", "json", *words)
    assert shown.code == 0, shown
    found: list[dict[str, Any]] = json.loads(shown.out)["rows"]
    return found


@pytest.mark.slow
def test_figure_3_is_drawn_from_the_store(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(FIGURE_3, seeds=(1,)))
    target = tmp_path / "figure.svg"
    shown = fsbench("sweep", "clip-lora", *FIGURE_3, "--store", store, "-O", target)
    assert shown.code == 0, shown
    lines = shown.out.splitlines()
    assert lines[0] == "clip-lora on dtd, 4-shot  top-1 accuracy, 60.25 to 83.25"
    assert sum(line.startswith("encoder ") for line in lines) == 9
    start = lines.index("encoder text, position top-half")
    assert lines[start + 1].split() == ["matrices", "\\", "rank", *["1", "2", "4", "8", "16", "32"]]
    assert lines[start + 3].split() == ["q", *(f"{60.25 + n:.2f}" for n in range(6))]
    assert lines[start + 9].split() == ["qkvo", *(f"{78.25 + n:.2f}" for n in range(6))]
    assert "missing" not in shown.out
    (matrix,) = parse(lines[-1]).matrices
    assert (len(matrix.methods), matrix.methods[0].count, matrix.count) == (1, 378, 378)
    text = " ".join(ElementTree.parse(target).getroot().itertext())
    assert text.count("60.25") >= 9
    assert "encoder text, position top-half" in text


def test_what_is_missing_is_shown_and_not_filled(tmp_path: Path) -> None:
    records = swept(SMALL, ("dtd", "pets"))
    gone = [r for r in records if (r.spec.options["rank"], r.spec.options["matrices"]) == (2, "qv")]
    kept = [r for r in records if r not in gone]
    kept += [r for r in gone if r.spec.dataset == "dtd" and r.spec.train_seed < 3]
    failed = [r for r in kept if r.spec.options["rank"] == 4 and r.spec.options["matrices"] == "q"]
    kept = [dataclasses.replace(r, status="failed", metrics={}) if r in failed else r for r in kept]
    store = save(tmp_path / "store", kept)
    shown = fsbench("sweep", "clip-lora", *SMALL, "--each", "--store", store).out
    average, dtd, pets = (part.splitlines() for part in shown.split("\n\n")[:3])
    assert average[0].startswith("clip-lora on average, 4-shot")
    assert average[3].split() == ["q", "65.50", "66.50", "failed"]
    assert average[4].split() == ["qv", "77.50", "—", "79.50"]
    assert dtd[4].split() == ["qv", "72.50", "73.38*", "74.50"]
    assert pets[4].split() == ["qv", "82.50", "—", "84.50"]
    assert "* 2 of 18 cells missing" in shown
    assert "* 3 of 18 cells failed" in shown
    assert "* 1 of 18 cells over fewer seeds" in shown
    found = rows(store, *SMALL)
    hole = next(r for r in found if (r["option_rank"], r["option_matrices"]) == (2, "qv"))
    assert (hole["mean"], hole["n_seeds"], hole["status"]) == (None, 0, "missing")
    assert hole["missing"] == ["dtd seed 3", "pets seed 1", "pets seed 2", "pets seed 3"]


@pytest.mark.parametrize(
    "number", [float("inf"), 10**400, True, "71.5", None], ids=["inf", "huge", "bool", "text", "no"]
)
def test_what_is_no_number_is_missing(tmp_path: Path, number: Any) -> None:
    """JSON's 1e999 is infinite in Python."""
    first, *others = swept(("-o", "rank=1,32", "-o", "matrices=qkv"))
    axes = [Axis("rank", (1, 32), 2)]
    sweep = build(
        "clip-lora", axes, [dataclasses.replace(first, metrics={"top1": number}), *others]
    )
    assert [cell.status for cell in sweep.panels[0].cells.values()] == ["partial", "done"]
    assert "75.62*" in render(sweep)


def test_lists_of_a_target_are_the_same_in_all_cells(tmp_path: Path) -> None:
    records = swept(SMALL, target="pets", target_revision="r1")
    spec = dataclasses.replace(records[0].spec, target_revision="r2")
    store = save(tmp_path / "store", [*records, dataclasses.replace(records[0], spec=spec)])
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store)
    assert shown.code == 2
    assert "differ in target revision of 'pets' ('r1' in 18 records, 'r2' in 1" in shown.err


def test_other_options_must_be_the_defaults_or_those_given(tmp_path: Path) -> None:
    short = swept((*SMALL, "-o", "iterations=3"))
    other = [dataclasses.replace(r, metrics={"top1": 1.0}) for r in short]
    store = save(tmp_path / "store", [*swept(SMALL), *other])
    assert {row["mean"] for row in rows(store, *SMALL)} == {60.5, 61.5, 62.5, 72.5, 73.5, 74.5}
    assert {row["mean"] for row in rows(store, *SMALL, "-o", "iterations=3")} == {1.0}
    older = [dataclasses.replace(r, spec=_version(r, "0")) for r in swept(SMALL)]
    store = save(tmp_path / "older", older)
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store)
    assert shown.code == 3
    assert "its 18 records of clip-lora have other options ('clip-lora[matrices=q,rank" in shown.err
    assert "of version 0, and here it is 2" in shown.err
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "-o", "iterations=9")
    assert "('clip-lora[matrices=q,rank=1]', " in shown.err
    shown = fsbench("sweep", "coop", "-o", "epochs=1,2", "--store", store)
    assert "no result of this sweep: no record of coop; run it with --dataset" in shown.err


def _version(record: Record, version: str) -> Any:
    return dataclasses.replace(record.spec, method_version=version)


def test_conditions_do_not_mix_and_can_be_chosen(tmp_path: Path) -> None:
    records = [*swept(SMALL), *swept(SMALL, val="none"), *swept(SMALL, ("pets",))]
    store = save(tmp_path / "store", records)
    mixed = fsbench("sweep", "clip-lora", *SMALL, "--store", store)
    assert mixed.code == 2
    assert "records differ in val ('min4' in 36 records, 'none' in 18 records)" in mixed.err
    assert len(rows(store, *SMALL, "--val", "none", "--shots", "4")) == 6
    chosen = rows(store, *SMALL, "--protocol", "fair", "--dataset", "pets", "--only-existing")
    assert {row["dataset"] for row in chosen} == {"pets"}


@pytest.mark.parametrize(
    "other",
    [{"limit": 40}, {"device": "cuda"}, {"exif": "rotate"}, {"backbone": "ViT-B-32@/my w/x.pt"}],
)
def test_the_option_that_chooses_among_conditions_works(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    store = save(tmp_path / "store", [*swept(SMALL), *swept(SMALL, **other)])
    mixed = fsbench("sweep", "clip-lora", *SMALL, "--store", store).err
    advice = shlex.split(mixed.partition("choose one with ")[2].partition(", or ")[0])
    assert len(rows(store, *SMALL, *advice)) == 6
    (name, value), *_ = other.items()
    assert len(rows(store, *SMALL, f"--{name}", str(value))) == 6


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"weights": "ab" * 32}, ("--weights", "abab")),
        ({"revision": "new lists"}, ("--revision", "new")),
        ({"data": {"holdout": 0.5}}, ("--own-data", "none")),
    ],
)
def test_what_no_option_of_a_sweep_chooses_is_removed(
    tmp_path: Path, other: dict[str, Any], words: tuple[str, str]
) -> None:
    store = save(tmp_path / "store", [*swept(SMALL), *swept(SMALL, **other)])
    mixed = fsbench("sweep", "clip-lora", *SMALL, "--store", store).err
    assert f"(fsbench store rm {words[0]} PREFIX)" in mixed
    assert "choose one with" not in mixed
    assert "--force" not in mixed
    assert fsbench("store", "rm", "--store", store, *words, "--yes").code == 0
    assert len(rows(store, *SMALL)) == 6


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "csv", "json"])
def test_files_of_every_kind(tmp_path: Path, suffix: str) -> None:
    store = save(tmp_path / "store", swept(SMALL)[:-4])
    targets = [tmp_path / f"{n}.{suffix}" for n in (1, 2)]
    for target in targets:
        assert fsbench("sweep", "clip-lora", *SMALL, "--store", store, "-O", target).code == 0
    data = targets[0].read_bytes()
    assert data == targets[1].read_bytes()
    if suffix == "png":
        assert Image.open(targets[0]).width > 300
    elif suffix == "csv":
        lines = list(csv.DictReader(io.StringIO(data.decode())))
        assert [line["option_rank"] for line in lines] == ["1", "2", "4"] * 2
        assert [line["status"] for line in lines].count("missing") == 1
    elif suffix == "json":
        assert json.loads(data)["meta"]["defaults"] == {"rank": 2, "matrices": "qkv"}
    else:
        assert (b"<svg" in data) or data.startswith(b"%PDF")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-o", "rank=2"], 2, "nothing varies in rank=2"),
        (["-o", "ranks=2,3"], 2, "unknown hyper-parameter of clip-lora 'ranks'"),
        (["-o", "matrices=q,x"], 2, "distinct letters of q, k, v, o, m"),
        (["-o", "rank=1,2", "-O", "a.txt"], 2, "expected a name that ends in .svg"),
        (["-o", "rank=1,2", "-O", "no/folder/a.svg"], 2, "expected a file in a folder that is the"),
        (["-o", "rank=1,2", "--store", "nowhere"], 3, "does not exist"),
        ([], 2, "missing option '--option'"),
    ],
)
def test_wrong_requests_are_one_error(words: list[str], code: int, said: str) -> None:
    shown = fsbench("sweep", "clip-lora", *words)
    assert shown.code == code, shown
    assert said in shown.err


@pytest.mark.slow
def test_a_sweep_runs_what_is_missing_and_draws_it(tmp_path: Path) -> None:
    words = ("-o", "epochs=1,2", "-o", "context_tokens=2,4", "--dataset", "digits", "--shots", "1")
    more = ("--seeds", "1", "--limit", "20", "--jobs", "1", "--store", tmp_path)
    dry = fsbench("sweep", "coop", *words, *more, "--dry-run")
    assert (dry.code, "4 cells: 0 done already, 4 to run" in dry.out) == (0, True)
    first = fsbench("sweep", "coop", *words, *more, "--format", "json")
    assert first.code == 0, first
    assert {row["status"] for row in json.loads(first.out)["rows"]} == {"done"}
    again = fsbench("sweep", "coop", *words, *more)
    assert "4 cells: 4 done already, 0 to run" in again.out
    assert "coop on digits, 1-shot  top-1 accuracy" in again.out
    # Tables of the store exclude sweeps unless requested.
    assert [path.name for path in tmp_path.iterdir()] == ["sweeps"]
    assert fsbench("run", "-m", "zero-shot", "-d", "digits", *more).code == 0
    table = fsbench("compare", "--store", tmp_path)
    assert (table.code, "zero-shot" in table.out, "coop[" in table.out) == (0, True, False)
    asked = fsbench("compare", "--store", tmp_path / "sweeps")
    assert (asked.code, asked.out.count("coop[")) == (0, 4)
    # Both stores are drawn; if named, the store of sweeps is used alone.
    assert {row["status"] for row in rows_of(tmp_path, *words[:4])} == {"done"}
    assert {row["status"] for row in rows_of(tmp_path / "sweeps", *words[:4])} == {"done"}


def rows_of(store: Path, *words: object) -> list[dict[str, Any]]:
    """Rows of CoOp's sweep."""
    shown = fsbench("sweep", "coop", *words, "--store", store, "--format", "json")
    found: list[dict[str, Any]] = json.loads(shown.out)["rows"]
    return found


def test_hostile_names_steer_nothing(tmp_path: Path) -> None:
    name = '=1+$x$\x1b[2J<b>&_^{"'
    store = save(tmp_path / "store", swept(SMALL, (name,)))
    target = tmp_path / "figure.svg"
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "-O", target)
    assert shown.code == 0, shown
    assert "\x1b" not in shown.out
    root = ElementTree.parse(target).getroot()
    assert not {"script", "a", "foreignObject"} & {one.tag.partition("}")[2] for one in root.iter()}
    text = "".join(root.itertext())
    assert "=1+$x$\ufffd[2J<b>&_^{" in text
    table = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "--format", "csv").out
    lines = list(csv.DictReader(io.StringIO(table)))
    assert {line["dataset"][:2] for line in lines} == {"'="}
    assert rows(store, *SMALL)[0]["dataset"] == name


def test_conditions_and_signature_stand_under_the_drawing(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, backbone="ViT-B-16/openai", weights="ab" * 32))
    target = tmp_path / "figure.svg"
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "-O", target)
    signature = shown.out.splitlines()[-1]
    said = " ".join(shown.out.split())
    assert "; backbone ViT-B-16/openai; precision fp32; " in said
    assert "weights abababababab; exif ignore; published no fsbench:1" in said
    drawn = "\n".join(ElementTree.parse(target).getroot().itertext())
    pasted = drawn[drawn.index("fsbench:1") :].partition("\n\n\n")[0]
    assert parse(pasted) == parse(signature)
    assert "backbone ViT-B-16/openai" in " ".join(drawn.split())


def test_characters_that_the_font_lacks_are_one_warning(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, ("\u6c49\u5b57",)))
    for suffix, said in (("png", "2 characters are boxes in the figure, whose font"), ("svg", "")):
        target = tmp_path / f"figure.{suffix}"
        shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "-O", target)
        assert shown.code == 0
        assert said in shown.err
        assert bool(shown.err) == bool(said)
    assert "\u6c49\u5b57" in target.read_text(encoding="utf-8")


def test_a_terminal_gets_colored_blocks(tmp_path: Path) -> None:
    axes = [Axis("rank", (1, 2, 4), 2), Axis("matrices", ("q", "qv"), "qkv")]
    sweep = build("clip-lora", axes, swept(SMALL)[:-3])
    styled = render(sweep, styled=True)
    ground = re.findall(r"48;2;(\d+;\d+;\d+)m\s*([\d.]+)", styled)
    assert ground[0] == ("68;1;84", "60.50")
    assert ground[-1] == ("253;231;37", "73.50")
    assert len(ground) == 5
    assert re.sub(r"\x1b\[[\d;]*m", "", styled).split() == render(sweep).split()


def test_limits_and_unfair_validation_are_marked(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, limit=60, val="full"))
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "--format", "json")
    assert shown.code == 0, shown
    found = json.loads(shown.out)
    assert {tuple(row["marks"]) for row in found["rows"]} == {
        ("unfair validation", "limited to 60")
    }
    notes = "\n".join(found["meta"]["notes"])
    assert "clip-lora had the full validation set" in notes
    assert "only 60 queries per data set" in notes


@pytest.mark.parametrize("seeds", [{"split_seed": 1, "digest": "d"}, {"train_seed": 1}])
def test_runs_that_share_seeds_are_named(tmp_path: Path, seeds: dict[str, Any]) -> None:
    store = save(tmp_path / "store", swept(SMALL, **seeds))
    assert {tuple(row["marks"]) for row in rows(store, *SMALL)} == {("crossed seeds",)}
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store).out
    assert "nothing is said about other training seeds" in shown or "split seed 1:" in shown


def test_seeds_that_drew_the_same_support_set_are_named(tmp_path: Path) -> None:
    store = save(tmp_path / "store", swept(SMALL, digest="all"))
    shown = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "--format", "json").out
    assert "several seeds drew the same support set: dtd, 4-shot; intervals" in shown


def test_classes_with_fewer_images_than_the_shots_are_named(tmp_path: Path) -> None:
    made = swept(SMALL)
    for number, record in enumerate(made):
        facts = {"short_classes": number % 2, "smallest_class": 3, "classes": 47, "short_val": 1}
        record.split.update(facts)  # type: ignore[attr-defined]
    store = save(tmp_path / "store", made)
    said = "for want of more: dtd, 4-shot: 1 of 47 classes (the smallest gave 3)"
    drawn = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "--format", "json").out
    table = fsbench("compare", "--store", store, "--format", "json").out
    for shown in (drawn, table):
        assert said in shown
        assert "fewer validation images than the policy says: dtd, 4-shot: 1 of 47" in shown


def test_test_images_that_were_trained_on_are_named(tmp_path: Path) -> None:
    made = swept(SMALL)
    for number, record in enumerate(made):
        record.split.update({"overlap": 2 + number % 2, "test": 100})  # type: ignore[attr-defined]
    store = save(tmp_path / "store", made)
    said = "3 of 100 test images are also among the train or validation images, byte for byte"
    drawn = fsbench("sweep", "clip-lora", *SMALL, "--store", store, "--format", "json").out
    table = fsbench("compare", "--store", store, "--format", "json").out
    for shown in (drawn, table):
        assert f"{said} (or fewer, in 18 of 18 cells)" in shown


def test_an_average_is_the_one_of_the_table(tmp_path: Path) -> None:
    """The mean 65.865 is below that number in binary, and the sum divided by two is above it."""
    top1 = {"dtd": 66.23, "pets": 65.5}
    made = [
        dataclasses.replace(record, metrics={"top1": top1[record.spec.dataset]})
        for record in swept(SMALL, ("dtd", "pets"), seeds=(1,))
    ]
    store = save(tmp_path / "store", made)
    drawn = fsbench("sweep", "clip-lora", *SMALL, "--store", store).out
    table = fsbench("compare", "--store", store).out
    assert "65.86" in table
    assert "65.86" in drawn
    assert "65.87" not in table + drawn


def test_what_is_not_drawn_beside_an_average_is_named(tmp_path: Path) -> None:
    halves = swept(SMALL, ("dtd",), classes="base", digest="of base classes")
    store = save(tmp_path / "s", [*swept(SMALL, ("dtd", "pets")), *halves])
    words = ("sweep", "clip-lora", *SMALL, "--store", store)
    shown = fsbench(*words)
    assert "* not drawn beside the average: dtd (base) (--each draws them)" in shown.out
    assert [matrix.classes for matrix in parse(shown.out.splitlines()[-1]).matrices] == [("all",)]
    every = fsbench(*words, "--each")
    assert "on dtd (base), 4-shot" in every.out
    assert "not drawn" not in every.out
