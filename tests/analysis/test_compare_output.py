"""Markup of the terminal, Markdown, LaTeX, CSV and JSON output."""

from __future__ import annotations

import re

import pytest

from fewshot_bench.analysis.formats import latex
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.table import AVERAGE
from tests.support.compare_records import make, matrix, read_csv, written

FIRST = (
    "dataset,method,shots,n_seeds,top1_mean,top1_ci95,trained_params,billed_seconds,peak_memory_mb"
)
HOSTILE = r"a_b&c%d#e$f\g~h^i{j}k|l"


def test_equal_differences_print_alike_and_zero_has_no_sign() -> None:
    tops = {("d", "a"): 52.345, ("d", "base"): 50.0, ("e", "a"): 2.345, ("e", "base"): 0.0}
    records = [make(method, dataset, top1=top1) for (dataset, method), top1 in tops.items()]
    shown = written("markdown", build(records, Options(baseline="base")))
    assert shown.count("| a | +2.35 (n=1) |") == 3, "of d, e and their average"
    # Values whose sum is not exactly zero in floating point.
    for tops_of_a in ((50.1, 3.0), (49.9, 3.2)):
        pairs = (("base", (50.0, 3.1)), ("a", tops_of_a))
        seeds = [make(m, seed=n, top1=v) for m, found in pairs for n, v in enumerate(found)]
        table = build(seeds, Options(baseline="base"))
        assert "-0.0" not in written("csv", table)
        assert '"delta_mean": -0.0' not in written("json", table)


def test_latex_escapes_hostile_names() -> None:
    text = written("latex", build([make(HOSTILE, dataset=HOSTILE)]))
    escaped = latex.escape(HOSTILE)
    assert escaped == (
        r"a\_b\&c\%d\#e\$f\textbackslash{}g\textasciitilde{}h\textasciicircum{}i\{j\}k\textbar{}l"
    )
    assert escaped in text
    rows = [line for line in text.splitlines() if line.startswith(r"a\_b")]
    assert [len(re.findall(r"(?<!\\)&", row)) for row in rows] == [4]
    assert latex.escape("x\n\\end{table}\x1b\u4e00") == r"x \textbackslash{}end\{table\}??"


def test_markdown_escapes_hostile_names() -> None:
    text = written("markdown", build([make("a|b\n*c*<script>", dataset="`x`")]))
    row = next(line for line in text.splitlines() if line.startswith(r"| a\|b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert "<script>" not in text


def test_csv_is_tidy_and_safe() -> None:
    table = build(matrix(methods=("=1+1", "+x", "-y", "@z", "ok,\"'")))
    text = written("csv", table)
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


def test_plugin_columns_are_shown() -> None:
    table = build(matrix(), columns=lambda records: {"joules|J": len(records)})
    assert "joules|J" in written("terminal", table)
    assert r"joules\|J" in written("markdown", table)


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in written("terminal", build([make("evil\x1b[2J")]))


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_fits(width: int) -> None:
    methods = ("clip-lora", "coop", "linear-probe", "tip-adapter", "tip-adapter-f", "zero-shot")
    table = build(matrix(methods, [f"d{i}" for i in range(11)], (1, 2, 4, 8, 16)))
    text = written("terminal", table, width=width)
    assert max(map(len, text.splitlines())) <= width
    grid_rows = [line for line in text.splitlines() if line.startswith("tip-adapter-f ")]
    assert len(grid_rows) in (12, 24)
    # Conditions shared by all tables are printed once, after the last table.
    assert text.count("protocol coop; val min4; prompts custom; backbone test;") == 1
    assert text.rindex("tip-adapter-f ") < text.index("protocol coop;")


def test_titles_break_where_their_parts_end() -> None:
    spec = {"overrides": {"views": 1}, "options": {"views": 1}, "limit": 40}
    shown = written("terminal", build([make("tip-adapter", **spec)]), width=50)
    lines = [line.split("  ")[0].rstrip() for line in shown.splitlines()]
    start = lines.index("tip-adapter")
    assert lines[start + 1 : start + 3] == ["[views=1]", "(limited to 40)"]
    spec = {"overrides": {"rank": 16, "encoder": "vision"}, "options": {}}
    shown = written("terminal", build([make("clip-lora", **spec)]), width=50)
    lines = [line.split("  ")[0].rstrip() for line in shown.splitlines()]
    start = lines.index("clip-lora")
    assert lines[start + 1 : start + 4] == ["[encoder=vision,", "rank=16]", ""]
