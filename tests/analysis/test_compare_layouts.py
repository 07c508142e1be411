"""Tables as papers print them: what stands in blocks, columns and groups, in every format."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis import formats
from fewshot_bench.analysis.table.build import build
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import lay_out
from fewshot_bench.api.record import Record
from tests.support.compare_records import halves, make, matrix, run_compare, save
from tests.support.helpers import fsbench
from tests.support.latex import needs, typeset

METHODS = ("clip-lora", "cocoop", "coop", "tip-adapter")
ROW = re.compile(r"^(?!\\)(.*) \\\\$", re.M)


def shown(store: Path, *words: str) -> str:
    done = run_compare("--store", store, *words)
    assert done.exit_code == 0, done.exception
    return str(done.output)


def lines_of(text: str) -> list[str]:
    """Lines of the first table of the terminal, with single blanks."""
    return [" ".join(line.split()) for line in text.partition("\nprotocol")[0].splitlines()]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two backbones at 1 and 4 shots, one of them without a data set."""
    first = matrix(METHODS, ("dtd", "pets"))
    second = [
        replace(r, spec=replace(r.spec, backbone="large", weights="c" * 64))
        for r in first
        if r.spec.dataset == "dtd"
    ]
    return save(tmp_path_factory.mktemp("backbones") / "s", [*first, *second])


def test_backbones_are_blocks_and_what_one_lacks_has_a_command(backbones: Path) -> None:
    words = ("--layout", "paper", "--stack", "backbone", "--shots", "4", "--rename", "large=ViT-L")
    text = shown(backbones, *words)
    assert [line for line in lines_of(text) if "4-shot" in line] == [
        "ViT-L, 4-shot",
        "test, 4-shot",
    ]
    assert lines_of(text)[4].split()[2:] == ["—", "—"]
    assert "* ViT-L: no result on pets (—), and so no average of all" in text
    assert re.search(r"fsbench run .*--dataset pets --shots 4 .*--backbone large", text)
    assert text.count("fsbench:1|") == 2
    apart = shown(backbones, "--layout", "paper", "--shots", "4")
    assert "Conditions 1 of 2" in apart
    rows = json.loads(shown(backbones, *words, "--format", "json"))
    assert [len(block["rows"]) for block in rows["blocks"]] == [12, 8]


def test_conditions_that_are_not_stacked_stay_apart(tmp_path: Path) -> None:
    found = [
        make("coop", name, backbone=backbone, val=val)
        for name in ("dtd", "pets")
        for backbone in ("test", "large")
        for val in ("min4", "none")
    ]
    text = shown(save(tmp_path, found), "--layout", "paper", "--stack", "backbone")
    assert [line for line in text.splitlines() if line.startswith("Conditions")] == [
        "Conditions 1 of 2: val min4",
        "Conditions 2 of 2: val none",
    ]
    assert text.count("large, 1-shot") == text.count("test, 1-shot") == 2


def test_data_sets_are_blocks_over_shots(tmp_path: Path) -> None:
    store = save(tmp_path, matrix(METHODS[:2]))
    own = lines_of(shown(store, "--layout", "paper", "--stack", "dataset"))
    assert own[1] == "method 1-shot 4-shot"
    assert [own[index] for index in (3, 7, 11)] == ["dtd", "pets", "average"]


def test_halves_of_several_shots_stand_under_them(tmp_path: Path) -> None:
    found = [
        record
        for name in ("dtd", "pets")
        for shots in (1, 4)
        for record in halves("coop", name, 1, 60 + shots, 40, shots=shots)
    ]
    store = save(tmp_path, found)
    page = shown(store, "--layout", "paper", "--stack", "dataset", "--format", "latex")
    assert r"& \multicolumn{3}{c}{1-shot} & \multicolumn{3}{c}{4-shot} \\" in page
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in page
    assert page.index(r"\textbf{average}") < page.index(r"\textbf{dtd}")


GROUPED = ("--group", "Prompt learning=coop,cocoop", "--ours", "clip-lora")


def test_groups_have_titles_and_ours_is_last(tmp_path: Path) -> None:
    store = save(tmp_path, matrix(METHODS, shots=(4,)))
    words = ("--layout", "paper", *GROUPED)
    own = [line.split("  ")[0] for line in shown(store, *words).splitlines()[3:8]]
    assert own == ["tip-adapter", "Prompt learning", "", "", "clip-lora"]
    page = shown(store, *words, "--format", "latex")
    assert r"\multicolumn{4}{l}{\textit{Prompt learning}} \\" in page
    assert page.count(r"\quad ") == 2
    assert r"\rowcolor{black!8}clip-lora & " in page
    assert r"% and \usepackage[table]{xcolor}" in page
    assert "| **clip-lora** |" in shown(store, *words, "--format", "markdown")
    ordered = shown(store, *words, "--method", "clip-lora,coop,cocoop,tip-adapter")
    assert ordered.splitlines()[3].startswith("clip-lora")


def test_the_best_of_every_block_is_bold(tmp_path: Path) -> None:
    found = [
        make(method, shots=shots, seed=seed, top1=50.0 + shots + number)
        for number, method in enumerate(METHODS)
        for shots in (1, 16)
        for seed in (1, 2, 3)
    ]
    # With another data set, since the numbers of shots of a single one are columns.
    found += [replace(r, spec=replace(r.spec, dataset="pets")) for r in found]
    page = shown(save(tmp_path, found), "--layout", "paper", "--format", "latex")
    assert page.count(r"tip-adapter & \textbf{") == 2
    assert page.count(r"coop & \underline{") == 2


@pytest.mark.parametrize(
    ("spread", "number", "caption"),
    [
        ("none", "51.0", "mean over 3 seeds"),
        ("std", "51.0 ±1.0", "mean ± standard deviation over 3 seeds"),
        ("interval", "51.0 ±2.5", "mean ± 95 % t-interval, n = 3 seeds"),
    ],
)
def test_a_mean_has_the_spread_that_is_asked_for(
    tmp_path: Path, spread: str, number: str, caption: str
) -> None:
    store = save(tmp_path, [make(seed=seed, top1=49.0 + seed) for seed in (1, 2, 3)])
    text = shown(store, "--layout", "paper", "--spread", spread)
    assert f"{number}\n" in text
    assert caption in text
    more = shown(store, "--spread", spread, "--digits", "1")
    assert number in more


def test_only_other_numbers_of_seeds_are_shown(tmp_path: Path) -> None:
    found = [r for r in matrix() if (r.spec.method, r.spec.dataset, r.spec.train_seed) != CUT]
    page = shown(save(tmp_path, found), "--layout", "paper", "--format", "latex")
    assert page.count("(n=2)") == 2
    assert "(n=3)" not in page


CUT = ("coop", "dtd", 3)


def changed(**own: Any) -> dict[str, Any]:
    """Options of a method with defaults, and the overrides of a cell."""
    return {"options": {"rank": 2, "scale": 1.0, **own}, "overrides": own}


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = ({}, {"rank": 1}, {"rank": 4}, {"scale": 0.5}, {"rank": 4, "scale": 0.5})
    found = [
        make("clip-adapter", name, 4, seed, 60.0 + number, **changed(**part))
        for name in ("dtd", "pets")
        for number, part in enumerate(own)
        for seed in (1, 2)
    ]
    return save(tmp_path_factory.mktemp("ablated") / "s", found)


def test_an_ablation_has_a_block_per_option(ablated: Path) -> None:
    text = shown(ablated, "--layout", "ablation")
    assert lines_of(text)[:10] == [
        "clip-adapter, 4-shot, all classes top-1 accuracy in %, mean over 2 seeds",
        "value dtd pets average",
        "─" * 34,
        "rank",
        "1 61.0 61.0 61.0",
        "2 (default) 60.0 60.0 60.0",
        "4 62.0 62.0 62.0",
        "",
        "scale",
        "0.5 63.0 63.0 63.0",
    ]
    assert "* not shown, as options differ that are not in this table: " in text
    assert "[rank=4,scale=0.5]" in text
    results = fb.load(ablated)
    assert str(results.compare(layout="ablation")) == text


def test_a_value_without_records_has_a_command(ablated: Path) -> None:
    results = fb.load(ablated).compare(layout="ablation", options={"rank": [1, 8]})
    text = str(results)
    assert [line.split()[0] for line in lines_of(text)[3:7]] == ["rank", "1", "2", "8"]
    assert "* no record of rank=8 (—)" in text
    assert re.search(r"fsbench run .*rank=8 --dataset dtd,pets --shots 4 --seeds 1,2", text)


def test_costs_stand_beside_the_average_with_their_units(tmp_path: Path) -> None:
    def timed(record: Record) -> Record:
        phases = {"fit": {"billed": {"wall": 90.0}, "joules": 5e3}}
        work = {"billed": {"flops": 2.5e12}}
        return replace(
            record,
            timings={**record.timings, "phases": phases},
            footprint={**record.footprint, "work": work},
        )

    store = save(tmp_path, map(timed, matrix(METHODS[:1], shots=(16,))))
    text = lines_of(shown(store, "--layout", "costs"))
    assert text[1] == "method average trained training time memory FLOPs energy"
    assert text[3].split(maxsplit=2)[2] == "184.3 k 1.5 min 103 MB 2.5 T 5.0 kJ"
    alone = lines_of(shown(store, "--layout", "costs", "-d", "dtd", "--columns", "training"))
    assert alone[1] == "method dtd training time"
    more = lines_of(shown(store, "--layout", "costs", "--columns", "macro_accuracy,peak"))
    assert more[1].startswith("method average macro")
    assert more[1].endswith("average memory")
    rows = shown(store, "--format", "csv").splitlines()
    assert {"training_seconds", "flops", "joules"} < set(rows[0].split(","))


def test_a_sweep_of_three_options_has_panels_as_blocks_in_print(tmp_path: Path) -> None:
    found = [
        make("coop", "dtd", 4, seed, 60.0 + a + b + c, **changed(rank=a, scale=b, depth=c))
        for a in (1, 4)
        for b in (0.5, 2.0)
        for c in (1, 2)
        for seed in (1, 2)
    ]
    table = fb.load(save(tmp_path, found)).compare(layout="sweep")
    page = table.to_latex(caption="Ranks.", label="tab:ranks")
    assert page.count(r"\begin{table}") == 1
    assert r"\caption{Ranks.}" in page
    assert r"\label{tab:ranks}" in page
    assert len(re.findall(r"\\multicolumn\{3\}\{l\}\{\\textbf\{\w+ \S+\}\}", page)) == 2
    assert "% signature: fsbench:1" in page
    assert r"\footnotesize" not in page.partition(r"\end{tabular}")[0]
    assert str(table).count("coop on dtd") == 2


def assert_sound(page: str) -> None:
    """All rows of a table have as many cells as its columns, and environments are balanced."""
    for name in ("table", r"table\*", "tabular"):
        assert len(re.findall(rf"\\begin\{{{name}\}}", page)) == len(
            re.findall(rf"\\end\{{{name}\}}", page)
        )
    for spec, body in re.findall(r"\\begin\{tabular\}\{(.*)\}\n(.*?)\\end", page, re.S):
        columns = len(re.sub(r"@\{.*?\}\}", "", spec))
        for row in ROW.findall(body):
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            cells = len(re.split(r"(?<!\\)&", row))
            assert cells - len(spans) + sum(spans) == columns, row


def printed(found: list[Record], **display: Any) -> str:
    """LaTeX of records in the paper layout, with a label."""
    document = lay_out(build(found), "latex", Display("paper", **display))
    return formats.render(replace(document, label="tab:all"), "latex")


NAMES = [f"set-number-{number}" for number in range(11)]


def test_long_tables_are_on_several_pages() -> None:
    page = printed(matrix([f"m{n}" for n in range(14)], NAMES, (1, 2, 4, 8, 16), (1,)))
    assert_sound(page)
    assert page.count(r"\begin{table*}") == 2
    assert r"\label{tab:all-all-classes-continued}" in page
    assert page.count(r"\textbf{16-shot}") == 1


def test_wide_tables_are_in_parts() -> None:
    page = printed(matrix([f"m{n}" for n in range(8)], NAMES, (1, 4), (1, 2)), spread="std")
    assert_sound(page)
    assert page.count(r"\begin{table*}") == 1
    assert page.count(r"\begin{tabular}") == 2
    assert page.count("\nm3 & ") == 4


@needs("pdflatex")
def test_every_layout_compiles(backbones: Path, ablated: Path, tmp_path: Path) -> None:
    both = halves("coop", "a_b", 1, 60, 40) + halves("coop", "c&d", 1, 60, 40)
    far = [make("coop", "a_b", target=name) for name in ("x%", "y#")]
    store = save(tmp_path / "s", [*both, *far, make("coop", "a_b")])
    pages = [
        shown(backbones, "--layout", "paper", "--stack", "backbone", *GROUPED, "--format", "latex"),
        shown(backbones, "--layout", "costs", "--format", "latex"),
        shown(ablated, "--layout", "ablation", "--format", "latex"),
        shown(store, "--layout", "paper", "--format", "latex", "--ours", "coop"),
        shown(store, "--layout", "paper", "--stack", "dataset", "--format", "latex"),
    ]
    for page in pages:
        assert_sound(page)
    log = typeset(tmp_path, "\n".join(pages))
    for trouble in ("Undefined control sequence", "Missing character", "LaTeX Error"):
        assert trouble not in log


class Rows(HTMLParser):
    """The classes and columns of every row of a page; `open` are tags that were not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[tuple[str, int]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append((given.get("class") or "", 0))
        elif tag in ("td", "th"):
            name, count = self.rows[-1]
            self.rows[-1] = name, count + int(given.get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_stands_alone(backbones: Path, tmp_path: Path) -> None:
    words = ("--layout", "paper", "--shots", "4", "--backbone", "test", *GROUPED)
    page = shown(backbones, *words, "--format", "html", "--caption", "<Ours> & others")
    seen = Rows(page)
    assert seen.open == []
    assert {count for _, count in seen.rows} == {4}
    assert [name for name, _ in seen.rows if name] == ["group", "inside", "inside", "ours"]
    assert "script" not in seen.tags
    assert "&lt;Ours&gt; &amp; others" in page
    assert {"style", "div"} < seen.tags
    halves_of = [*halves("coop", "dtd", 1, 60, 40), *halves("coop", "pets", 1, 60, 40)]
    over = Rows(shown(save(tmp_path, halves_of), "--layout", "paper", "--format", "html"))
    assert {count for _, count in over.rows} == {10}


def test_markdown_has_a_row_per_title(backbones: Path) -> None:
    words = ("--layout", "paper", "--backbone", "test", *GROUPED)
    text = shown(backbones, *words, "--format", "markdown")
    assert "| **1-shot** |  |  |  |" in text
    assert "| *Prompt learning* |  |  |  |" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {5}


@pytest.mark.parametrize("command", ["reproduce", "printed"])
def test_published_numbers_have_captions_labels_and_new_names(command: str, tmp_path: Path) -> None:
    own = ("clip-lora-table3", "--only-existing", "--shots", "1", "--store", tmp_path / "none")
    words = (command, *(own if command == "reproduce" else ("--shots", "1")), "-m", "clip-lora")
    named = ("--caption", "Ours, 50%", "--label", "tab:printed", "--rename", "dtd=DTD")
    done = fsbench(*words, "-d", "dtd,eurosat", *named, "--format", "latex")
    assert done.code in (0, 1), done.err
    assert r"\caption{Ours, 50\%.}" in done.out
    assert r"\label{tab:printed}" in done.out
    rows = [line for line in done.out.splitlines() if line.endswith(r"\\")]
    assert any(re.search(r"\bDTD\b", row) for row in rows)
    assert not any(re.search(r"\bdtd\b", row) for row in rows)
    refused = fsbench(*words, "-d", "dtd", "--rename", "dt=x", "--format", "latex")
    assert "unknown name to replace 'dt': did you mean 'dtd'" in refused.err
