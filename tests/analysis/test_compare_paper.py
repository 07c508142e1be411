"""Tables and figures in the style of papers: layout, names, captions, curves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.signature import signature_of
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.layouts import side_by_side
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import halves, make, matrix, read_csv, run_compare, save
from tests.support.latex import NAMES, needs, typeset

PAPER = ("--layout", "paper")
OPTIONS: dict[str, Any] = {"options": {"steps": 15}, "overrides": {"steps": 15}}


def records() -> list[Record]:
    """Three rows on two data sets at 1 and 4 shots, one row with an option."""
    own = [
        make("bias-tuning", dataset, k, seed, 60.0 + k + seed, **OPTIONS)
        for dataset in ("dtd", "pets")
        for k in (1, 4)
        for seed in (1, 2, 3)
    ]
    return [*matrix(), *own]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return save(tmp_path / "store", records())


def refused(*words: str | Path) -> str:
    error = run_compare(*words).exception
    assert isinstance(error, UsageError), error
    return str(error)


def test_shots_are_blocks_of_one_float(store: Path) -> None:
    words = ("--format", "latex", "--label", "tab:main", "--caption", "50% of $x_1$ & more.")
    shown = run_compare("--store", store, *PAPER, *words).output
    assert shown.count(r"\begin{table}") == shown.count(r"\end{table}") == 1
    assert r"\caption{50\% of \$x\_1\$ \& more.}" in shown
    assert r"\label{tab:main}" in shown
    blocks = re.findall(r"\\multicolumn\{4\}\{l\}\{\\textbf\{(.*)\}\} \\\\", shown)
    assert blocks == ["1-shot", "4-shot"]
    parts = shown.split(r"\midrule")[1:]
    assert all(re.search(r"& \\textbf\{\d", part) for part in parts)
    assert r"\underline{" in parts[1]
    (line, *_) = re.findall(r"^% signature: (.*)$", shown, re.M)
    assert line == signature_of(records())
    assert shown.count(r"\footnotesize") == 1
    one = run_compare("--store", store, *PAPER, *words, "--shots", "4").output
    assert r"\multicolumn" not in one


def test_many_data_sets_go_over_both_columns_of_a_page(tmp_path: Path) -> None:
    store = save(tmp_path / "s", matrix(datasets=[f"d{number}" for number in range(11)]))
    shown = run_compare("--store", store, *PAPER, "--format", "latex").output
    assert r"\begin{table*}" in shown
    assert r"\begin{tabular}{lccccccccccc@{\hspace{1.5em}}c}" in shown


def test_halves_and_targets_stand_side_by_side() -> None:
    found = [half for name in ("dtd", "pets") for half in halves("coop", name, 1, 60, 40)]
    found += [make("coop", "imagenet", target=f"imagenet-{name}") for name in ("a", "r")]
    found += [make("coop", "imagenet")]
    kinds = {
        kind.title: [(place.over, place.head) for place in kind.places]
        for kind in side_by_side(build(found))
    }
    names = ("average", "dtd", "pets")
    assert kinds == {
        "base to new classes": [(name, half) for name in names for half in ("base", "new", "H")],
        "transfer from imagenet": [
            ("source", "imagenet"),
            ("targets", "imagenet-a"),
            ("targets", "imagenet-r"),
            ("targets", "average"),
        ],
    }


RENAMES = ("--rename", "bias-tuning[steps=15]=Ours", "--rename", "dtd=DTD (textures)")


def test_a_method_is_renamed_with_its_options(tmp_path: Path) -> None:
    store = save(tmp_path, [make("blend"), make("blend", **OPTIONS), make("coop")])
    shown = run_compare("--store", store, "--rename", "blend=Ours", "--format", "csv").output
    assert {row["method"] for row in read_csv(shown)} == {"Ours", "Ours[steps=15]", "coop"}


@pytest.mark.parametrize("layout", ["compact", "full", "paper"])
@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
def test_names_can_be_set_in_every_format(store: Path, form: str, layout: str) -> None:
    words = ("--format", form, "--layout", layout, "--rename", "average=Avg. =")
    shown = run_compare("--store", store, *RENAMES, *words).output
    # Without signatures, which contain the original method names.
    own = shown.partition("\nfsbench:1")[0] if form == "terminal" else shown
    lines = own.splitlines()
    body = "\n".join(line for line in lines if not re.search(r"fsbench:1|\\tiny", line))
    assert "Ours" in body
    assert "bias-tuning" not in body
    assert "DTD (textures)" in body.replace("\\", "")
    assert "Avg. =" in body.replace("\\", "")
    assert not re.search(r"\bdtd\b", body)


def test_names_stand_in_json_notes_and_differences(store: Path, tmp_path: Path) -> None:
    words = ("--format", "json", "--baseline", "bias-tuning[steps=15]")
    shown = json.loads(run_compare("--store", store, *RENAMES, *words).output)
    assert shown["meta"]["baseline"] == "Ours"
    assert shown["meta"]["datasets"] == ["DTD (textures)", "pets"]
    assert {row["method"] for row in shown["rows"]} == {"coop", "zero-shot", "Ours"}
    some = [r for r in records() if (r.spec.method, r.spec.dataset) != ("coop", "dtd")]
    other = save(tmp_path / "other", some)
    text = run_compare("--store", other, *RENAMES, "--rename", "coop=CoOp").output
    assert "CoOp on DTD (textures), 1-shot" in text
    assert "--method coop --dataset dtd" in text


def test_a_methods_name_stands_before_its_options_and_halves_follow() -> None:
    found = [*halves("coop", "dtd", 1, 60, 40), *halves("b", "dtd", 1, 60, 40, **OPTIONS)]
    table = build(found, Options(rename=("b=Bias", "dtd=DTD")))
    assert [row.label for row in table.rows] == ["Bias[steps=15]", "coop"]
    assert table.datasets == ("DTD (base)", "DTD (new)")
    assert "Bias[steps=15]" in {row.label for row in build(found, Options(rename=("b=Bias",))).rows}


def test_the_average_is_renamed_where_there_are_halves_alone() -> None:
    found = [r for dataset in ("dtd", "pets") for r in halves("coop", dataset, 1, 60, 40)]
    table = build(found, Options(rename=("average=Avg.",)))
    assert [group.shown for group in table.groups if group.average] == [
        "Avg. (base)",
        "Avg. (new)",
        "Avg. (H)",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rename", "cop=CoOp"), "unknown name to replace 'cop': did you mean 'coop'?"),
        (("--rename", "coop"), "expected OLD=NEW"),
        (("--rename", "coop="), "expected a new name"),
        (("--rename", "coop=a", "--rename", "coop=b"), "stands there twice"),
        (("--rename", "coop=zero-shot"), "two rows would be called 'zero-shot'"),
        (("--rename", "dtd=pets"), "two data sets would be called 'pets'"),
        (("--stack", "dataset"), "--stack belongs to --layout paper"),
        ((*PAPER, "--stack", "shot"), "unknown stack 'shot': did you mean 'shots'"),
        (("--group", "coop"), "expected TITLE=NAMES"),
        (("--group", "A=cop"), "unknown method 'cop': did you mean 'coop'?"),
        (("--group", "A=coop", "--group", "B=coop"), "'coop' is in two groups"),
        (("--ours", "cop"), "unknown method 'cop'"),
        ((*PAPER, "--label", "tab:x"), "add --format latex"),
        ((*PAPER, "--format", "latex", "--label", "a}b"), "expected letters, digits"),
        ((*PAPER, "--format", "csv", "--caption", "x"), "csv has none"),
        ((*PAPER, "--columns", "ece"), "no room for --columns"),
        ((*PAPER, "--per-class"), "--per-class has no room for --layout paper"),
    ],
)
def test_what_does_not_go_together_is_refused(store: Path, words: Any, said: str) -> None:
    assert said in refused("--store", store, *words)


@needs("pdflatex")
@pytest.mark.parametrize("count", [2, 9])
def test_the_paper_layout_compiles(tmp_path: Path, count: int) -> None:
    names = [*NAMES, *(f"set {number}" for number in range(9))][:count]
    store = save(tmp_path / "s", matrix(NAMES[:3], names))
    words = ("--format", "latex", *PAPER, "--label", "tab:m_1", "--caption", " ".join(NAMES))
    log = typeset(tmp_path, run_compare("--store", store, *words, "--baseline", NAMES[0]).output)
    for trouble in ("Undefined control sequence", "Missing character", "LaTeX Error"):
        assert trouble not in log


def test_csv_and_json_hold_all_numbers_in_every_layout(store: Path) -> None:
    for form in ("csv", "json"):
        shown = {
            run_compare("--store", store, "--format", form, "--layout", layout).output
            for layout in ("compact", "full", "paper", "costs")
        }
        assert len(shown) == 1


def test_every_float_has_a_caption_and_a_label_of_its_own(tmp_path: Path) -> None:
    far = [make("coop", name, top1=70.0, target="pets") for name in ("花", "木")]
    store = save(tmp_path / "s", [*matrix(), *far])
    words = ("--format", "latex", "--label", "tab:main", "--baseline", "zero-shot")
    shown = run_compare("--store", store, *PAPER, *words, "--caption", "Ours.").output
    labels = re.findall(r"\\label\{(.*)\}", shown)
    assert len(set(labels)) == len(labels) == shown.count(r"\begin{table}")
    assert {"tab:main-all-classes", "tab:main-all-classes-differences"} < set(labels)
    assert r"\caption{Ours (all classes, differences).}" in shown
    said = "\n" + r"\par\smallskip{\footnotesize "
    assert f"{said}difference to zero-shot in points of top-1 accuracy, paired over seeds" in shown
    assert rf"{said}top-1 accuracy in \%, mean over 3 seeds\par}}" in shown
    bare = run_compare("--store", store, *PAPER, "--format", "latex").output
    assert r"\footnotesize" not in bare


def test_the_library_refuses_a_label_that_breaks_latex(store: Path) -> None:
    table = fb.load(store).compare(layout="paper")
    with pytest.raises(UsageError, match="label 'tab:50%': expected letters"):
        table.to_latex(label="tab:50%")
