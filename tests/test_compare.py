"""Tables: statistics, averages, refusals, markup, and the command itself."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.cli.compare import command
from fewshot_bench.compare import latex, markdown, terminal, tidy
from fewshot_bench.compare.aggregate import Options, build
from fewshot_bench.compare.model import AVERAGE, Cell, Table
from fewshot_bench.compare.statistics import estimate, quantile
from fewshot_bench.errors import DataMissingError, UsageError
from fewshot_bench.record import Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store

FIRST = (
    "dataset,method,shots,n_seeds,top1_mean,top1_ci95,trained_params,billed_seconds,peak_memory_mb"
)
HOSTILE = r"a_b&c%d#e$f\g~h^i{j}k|l"


def make(
    method: str = "coop",
    dataset: str = "dtd",
    shots: int = 1,
    seed: int = 1,
    top1: float | None = 50.0,
    digest: str | None = None,
    **spec: Any,
) -> Record:
    """A record; a top1 of None makes a failed one."""
    values = {"split_seed": seed, "train_seed": seed, **spec}
    done = top1 is not None
    return Record(
        RunSpec(method, dataset, shots, **values),
        "done" if done else "failed",
        split={"digest": digest or f"{dataset}-{shots}-{seed}", "verified": True},
        metrics={"top1": top1, "macro_accuracy": top1 - 1, "n": 100} if top1 is not None else {},
        footprint={"trained": 184320, "peak_memory_mb": 100.0 + seed} if done else {},
        timings={"billed_seconds": 2.0 * seed} if done else {},
        error=None if done else {"type": "RuntimeError", "message": "m", "traceback": "t"},
    )


def matrix(
    methods: Iterable[str] = ("coop", "zero-shot"),
    datasets: Iterable[str] = ("dtd", "pets"),
    shots: Iterable[int] = (1, 4),
    seeds: Iterable[int] = (1, 2, 3),
) -> list[Record]:
    cells = itertools.product(methods, datasets, shots, seeds)
    return [
        make(method, dataset, k, seed, 50.0 + 7 * (number % 5) + seed)
        for number, (method, dataset, k, seed) in enumerate(cells)
    ]


def cell(table: Table, dataset: str, label: str, shots: int) -> Cell:
    return table.cells[dataset, label, shots]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def save(folder: Path, records: Iterable[Record]) -> Path:
    store = Store(folder)
    store.create()
    for record in records:
        store.write(record)
    return folder


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_interval_is_that_of_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert found.half is not None
    expected = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.half == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 1001])
def test_quantile_is_that_of_scipy(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-11)


def test_one_value_has_no_interval() -> None:
    assert estimate([]) is None
    found = estimate([3.0])
    assert found is not None
    assert (found.mean, found.half, found.n) == (3.0, None, 1)
    assert "50.00 n=1" in terminal.render(build([make()]))


def test_average_is_per_seed_first() -> None:
    values = {("a", 1): 10.0, ("a", 2): 20.0, ("b", 1): 30.0, ("b", 2): 60.0}
    table = build([make("m", name, 1, seed, top1) for (name, seed), top1 in values.items()])
    found = cell(table, AVERAGE, "m", 1).estimates["top1"]
    assert found == estimate([20.0, 40.0])
    assert cell(table, AVERAGE, "m", 1).status == "done"


def test_missing_is_never_averaged() -> None:
    records = [r for r in matrix() if (r.spec.method, r.spec.dataset) != ("coop", "pets")]
    table = build(records)
    assert cell(table, "pets", "coop", 1).status == "missing"
    average = cell(table, AVERAGE, "coop", 1)
    assert (average.status, average.estimates) == ("missing", {})
    assert average.reason == "no result on pets"
    assert "top1" in cell(table, AVERAGE, "zero-shot", 1).estimates
    lines = read_csv(tidy.render_csv(table))
    missing = [line for line in lines if line["n_seeds"] == "0"]
    assert {(line["dataset"], line["method"]) for line in missing} == {
        ("pets", "coop"),
        (AVERAGE, "coop"),
    }
    assert all(line["top1_mean"] == line["billed_seconds"] == "" for line in missing)
    text = terminal.render(table)
    assert "—" in text
    assert "no average of coop, 1,4-shot: no result on pets" in text
    assert "--method coop --dataset pets --shots 1,4 --seeds 1,2,3 --backbone tiny" in text


def test_average_needs_the_same_seeds_everywhere() -> None:
    table = build([r for r in matrix() if not _is(r, "coop", "pets", 1, 3)])
    average = cell(table, AVERAGE, "coop", 1)
    assert average.estimates == {}
    assert average.reason == "seeds differ: 1,2 on pets; 1,2,3 on dtd"
    assert cell(table, "pets", "coop", 1).status == "partial"
    text = terminal.render(table)
    assert "n=2" in text
    assert "cells with other seeds than 1,2,3: coop on pets, 1-shot: 1,2" in text


def _is(record: Record, method: str, dataset: str, shots: int, seed: int) -> bool:
    spec = record.spec
    return (spec.method, spec.dataset, spec.shots, spec.split_seed) == (
        method,
        dataset,
        shots,
        seed,
    )


def test_failed_cells_are_shown_and_not_averaged() -> None:
    records = [make("coop", "dtd", 1, seed, None) for seed in (1, 2)]
    records += [make("coop", "pets", 1, seed) for seed in (1, 2)]
    table = build(records)
    assert cell(table, "dtd", "coop", 1).status == "failed"
    assert cell(table, AVERAGE, "coop", 1).estimates == {}
    text = terminal.render(table)
    assert "failed x2" in text
    assert "2 x RuntimeError" in " ".join(text.split())
    assert table.commands == ()


def test_costs() -> None:
    found = cell(build(matrix()), "dtd", "coop", 1)
    assert (found.trained, found.billed, found.memory) == (184320, 4.0, 103.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("protocol", "nested"),
        ("val", "full"),
        ("prompts", "simple"),
        ("backbone", "ViT-B-16"),
        ("precision", "bf16"),
        ("device", "cuda"),
        ("limit", 10),
        ("weights", "abc"),
    ],
)
def test_mixed_conditions_are_refused(name: str, value: Any) -> None:
    records = [make(), make("zero-shot", **{name: value})]
    with pytest.raises(UsageError, match=rf"{name}.*'{value}' in 1.*--{name}.*--allow-mixed"):
        build(records)
    table = build(records, Options(allow_mixed=True))
    labels = [row.label for row in table.rows]
    assert f"zero-shot {name}={value}" in labels
    assert all(cell(table, "dtd", label, 1).status == "done" for label in labels)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"digest": "other"}, "split digest"),
        ({"revision": "2"}, "revision"),
        ({"options": {"rank": 4}}, "options"),
        ({"method_version": "2"}, "version"),
    ],
)
def test_local_differences_are_refused(change: dict[str, Any], word: str) -> None:
    records = [make(options={"rank": 2}), make("coop", **{"options": {"rank": 2}, **change})]
    if word == "split digest":
        records[1] = make("zero-shot", **change)
    with pytest.raises(UsageError, match=word):
        build(records)
    assert len(build(records, Options(allow_mixed=True)).rows) == 2


def test_marks_stand_in_every_table() -> None:
    table = build([make(val="full", limit=10)])
    for text in (terminal.render(table), markdown.render(table), latex.render(table)):
        assert "unfair validation" in text
        assert "limited to 10" in text
    assert read_csv(tidy.render_csv(table))[0]["marks"] == "unfair validation;limited to 10"


def test_overrides_label_their_row() -> None:
    table = build([make(), make(overrides={"rank": 4}, options={"rank": 4})])
    assert [row.label for row in table.rows] == ["coop", "coop[rank=4]"]


def test_best_and_second_per_column() -> None:
    tops = {"a": 90.0, "b": 80.0, "c": 80.001, "d": 70.0}
    table = build([make(name, top1=top1) for name, top1 in tops.items()])
    text = latex.render(table)
    assert r"\textbf{90.00}" in text
    assert text.count(r"\underline{80.00}") == 2
    assert "<u>80.00</u>" in markdown.render(table)
    styled = terminal.render(table, styled=True)
    assert "\x1b[1m90.00\x1b[0m" in styled
    assert "\x1b[4m80.00\x1b[0m" in styled
    assert "textbf" not in latex.render(build([make()]))


def test_baseline_pairs_identical_splits() -> None:
    records = [make("a", seed=seed, top1=50.0 + seed * seed) for seed in (1, 2, 3)]
    records += [make("b", seed=seed, top1=40.0) for seed in (1, 2, 3)]
    table = build(records, Options(baseline="b"))
    assert cell(table, "dtd", "a", 1).delta == estimate([11.0, 14.0, 19.0])
    for text in (terminal.render(table), markdown.render(table)):
        assert "difference to b" in text
        assert "+14.67" in text
    assert "$+14.67$" in latex.render(table)
    assert read_csv(tidy.render_csv(table))[0]["delta_mean"].startswith("14.66")
    with pytest.raises(UsageError, match="did you mean 'b'"):
        build(records, Options(baseline="B"))


def test_baseline_never_pairs_other_splits() -> None:
    records = [make("a", digest="x"), make("b", digest="y", val="full")]
    table = build(records, Options(baseline="b", allow_mixed=True))
    assert cell(table, "dtd", "a val=min4", 1).delta is None
    assert "identical splits" in " ".join(table.notes)


def test_zero_shots_are_no_hole() -> None:
    table = build([make("zero-shot", shots=0), make("coop", shots=1)])
    assert table.commands == ()
    assert len(tidy.rows(table)) == 4


def test_latex_escapes_hostile_names() -> None:
    text = latex.render(build([make(HOSTILE, dataset=HOSTILE)]))
    escaped = latex.escape(HOSTILE)
    assert escaped == (
        r"a\_b\&c\%d\#e\$f\textbackslash{}g\textasciitilde{}h\textasciicircum{}i\{j\}k\textbar{}l"
    )
    assert escaped in text
    rows = [line for line in text.splitlines() if line.startswith(r"a\_b")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [4]
    assert latex.escape("x\n\\end{table}\x1b\u4e00") == r"x \textbackslash{}end\{table\}??"


def test_markdown_escapes_hostile_names() -> None:
    text = markdown.render(build([make("a|b\n*c*<script>", dataset="`x`")]))
    row = next(line for line in text.splitlines() if line.startswith(r"| a\|b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert "<script>" not in text


def test_csv_is_tidy_and_safe() -> None:
    table = build(matrix(methods=("=1+1", "+x", "-y", "@z", "ok,\"'")))
    text = tidy.render_csv(table)
    assert text.startswith(FIRST + ",")
    lines = read_csv(text)
    assert len(lines) == 5 * 3 * 2
    assert {line["method"] for line in lines} == {"'=1+1", "'+x", "'-y", "'@z", "ok,\"'"}
    assert {line["dataset"] for line in lines} == {"dtd", "pets", AVERAGE}
    for line in lines:
        assert int(line["n_seeds"]) == 3
        assert 0 < float(line["top1_mean"]) < 100
        assert float(line["top1_ci95"]) >= 0
        assert line["trained_params"] == "184320"
        assert line["errors"] == line["reason"] == line["limit"] == ""


def test_json_has_rows_and_meta() -> None:
    table = build(matrix(), columns=lambda records: {"carbon": float("nan"), "k": len(records)})
    document = json.loads(tidy.render_json(table))
    assert ",".join(list(document["rows"][0])[:9]) == FIRST
    assert document["rows"][0]["k"] == 3
    assert document["rows"][0]["carbon"] is None
    assert document["meta"]["conditions"]["val"] == ["min4"]


def test_plugin_columns_are_shown() -> None:
    table = build(matrix(), columns=lambda records: {"joules|J": len(records)})
    assert "joules|J" in terminal.render(table)
    assert r"joules\|J" in markdown.render(table)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in terminal.render(build([make("evil\x1b[2J")]))


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_fits(width: int) -> None:
    methods = ("clip-lora", "coop", "linear-probe", "tip-adapter", "tip-adapter-f", "zero-shot")
    table = build(matrix(methods, [f"d{i}" for i in range(11)], (1, 2, 4, 8, 16)))
    text = terminal.render(table, width=width)
    assert max(map(len, text.splitlines())) <= width
    grid_rows = [line for line in text.splitlines() if line.startswith("tip-adapter-f ")]
    assert len(grid_rows) in (12, 24)
    assert text.count("protocol coop; val min4; prompts custom; backbone tiny;") == 12


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_command_filters_and_writes(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", matrix())
    target = tmp_path / "table.csv"
    words = ("--store", folder, "--method", "zero-shot", "--shots", "4", "--seeds", "2,1")
    result = run(*words, "--format", "csv", "-O", target)
    assert (result.exit_code, result.output) == (0, "")
    lines = read_csv(target.read_text())
    assert [line["dataset"] for line in lines] == ["dtd", "pets", AVERAGE]
    assert {line["n_seeds"] for line in lines} == {"2"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["table.csv"]
    result = run("--store", folder, "-O", tmp_path / "absent" / "x")
    assert isinstance(result.exception, UsageError)


def test_command_keeps_the_asked_order(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", matrix())
    words = ("--store", folder, "--method", "zero-shot,coop", "--dataset", "pets,dtd")
    rows = json.loads(run(*words, "--format", "json").output)["rows"]
    assert list(dict.fromkeys(row["method"] for row in rows)) == ["zero-shot", "coop"]
    assert list(dict.fromkeys(row["dataset"] for row in rows)) == ["pets", "dtd", AVERAGE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "zero_shot"), "did you mean 'zero-shot'"),
        (("--dataset", "dtdd"), "did you mean 'dtd'"),
        (("--shots", "3"), "unknown number of shots '3'"),
        (("--seeds", "9"), "unknown seed '9'"),
        (("--val", "min"), "did you mean 'min4'"),
        (("--baseline", "zero-shoot"), "did you mean 'zero-shot'"),
    ],
)
def test_unknown_names(tmp_path: Path, words: tuple[str, str], message: str) -> None:
    folder = save(tmp_path / "store", matrix())
    error = run("--store", folder, *words).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert message in str(error)
    assert "\n" not in str(error)


def test_mixed_store_can_be_filtered(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", [*matrix(), make("other", val="full")])
    assert isinstance(run("--store", folder).exception, UsageError)
    assert run("--store", folder, "--val", "min4").exit_code == 0
    assert run("--store", folder, "--allow-mixed").exit_code == 0


def test_empty_and_damaged_stores(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", save(tmp_path / "empty", [])):
        error = run("--store", folder).exception
        assert isinstance(error, DataMissingError)
        assert error.exit_code == 3
        assert "fsbench run" in str(error)
    folder = save(tmp_path / "damaged", matrix())
    next(folder.rglob("*.json")).write_text("{")
    result = run("--store", folder)
    assert result.exit_code == 0
    assert "not used: " in result.output
    assert isinstance(run("--store", next(folder.rglob("*.json"))).exception, UsageError)


def test_two_thousand_records_in_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    datasets = [f"data{number}" for number in range(11)]
    methods = [f"method-{number}" for number in range(12)]
    records = matrix(methods, datasets, (1, 2, 4, 8, 16))
    folder = save(tmp_path / "store", [*records, *matrix(["more"], datasets[:7], (1,), (1,))])
    assert len(records) == 1980
    code = "import sys; from fewshot_bench.cli.compare import command; command(sys.argv[1:])"
    words = [sys.executable, "-c", code, "--store", str(folder), "--baseline", "method-0"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2.0


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import fewshot_bench.cli.compare, fewshot_bench.store, "
        "fewshot_bench.compare.aggregate, fewshot_bench.compare.terminal; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
