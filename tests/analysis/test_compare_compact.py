"""The compact layout, which `compare` has by default: methods x data sets, the average last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fewshot_bench as fb
from tests.support.compare_records import matrix, run_compare, save
from tests.support.latex import needs, typeset

ELEVEN = [
    *("caltech101", "dtd", "eurosat", "fgvc_aircraft", "food101", "imagenet"),
    *("oxford_flowers", "oxford_pets", "stanford_cars", "sun397", "ucf101"),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return save(tmp_path / "store", matrix())


def tables(shown: str) -> list[tuple[str, str, list[str]]]:
    """(title, head, lines) of the tables in terminal output."""
    found = re.findall(
        r"^(\S.*?)  (?:.*\n)+?((?:method| +\w+_ ).*\n(?:.*\n)*?)─+\n((?:.+\n)+)", shown, re.M
    )
    return [(title, head, lines.splitlines()) for title, head, lines in found]


def test_a_table_per_shots_with_the_average_last(store: Path) -> None:
    found = tables(run_compare("--store", store).output)
    assert [title for title, *_ in found] == ["1-shot", "4-shot"]
    for _, head, lines in found:
        assert head.split() == ["method", "dtd", "pets", "average"]
        assert [line.split()[0] for line in lines[:2]] == ["coop", "zero-shot"]
        assert lines[0].count("±") == 3


def test_the_command_and_python_have_one_default(store: Path) -> None:
    shown = run_compare("--store", store).output
    compared = fb.load(store).compare()
    assert str(compared) == shown
    assert "<b>4-shot</b>" in compared._repr_html_()
    assert "### 4-shot" in compared.to_markdown()
    assert str(fb.load(store).compare(layout="full")).startswith("dtd  top-1")


def test_one_seed_is_said_once(tmp_path: Path) -> None:
    shown = run_compare("--store", save(tmp_path, matrix(seeds=(1,)))).output
    assert "1-shot  top-1 accuracy in %, mean, n = 1 seed\n" in shown
    assert "n=1" not in shown


def test_two_seeds_are_a_range_and_fewer_are_named(tmp_path: Path) -> None:
    found = [r for r in matrix(seeds=(1, 2)) if (r.spec.method, r.spec.split_seed) != ("coop", 2)]
    shown = run_compare("--store", save(tmp_path, found), "--shots", "1").output
    assert "mean (range), n = 2 seeds" in shown
    ((_, _, lines),) = tables(shown)
    assert lines[0].count("n=1") == 3
    assert lines[1].count("–") == 3
    assert "(a–b) are the two seeds" in shown


@pytest.mark.parametrize(("width", "intervals", "parts"), [(80, 1, 2), (120, 1, 1), (200, 12, 1)])
def test_a_narrow_terminal_shows_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, intervals: int, parts: int
) -> None:
    store = save(tmp_path, matrix(datasets=ELEVEN, shots=(16,)))
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run_compare("--store", store).output
    assert max(map(len, shown.splitlines())) <= width
    lines = re.findall(r"^coop .*$", shown, re.M)
    assert sum(line.count("±") for line in lines) == intervals
    assert len(lines) == parts
    assert ("intervals of data sets: --layout full" in re.sub(r"\s+", " ", shown)) == (
        intervals == 1
    )
    assert ("oxford_pets" in shown.partition("fsbench:1")[0]) == (width == 200)


def test_differences_name_the_seeds_once(store: Path) -> None:
    shown = run_compare("--store", store, "--baseline", "zero-shot").output
    titles = [title for title, *_ in tables(shown)]
    assert titles[:4] == ["1-shot", "4-shot", "1-shot, differences", "4-shot, differences"]
    assert "on identical splits, n = 3 seeds" in re.sub(r"\s+", " ", shown)
    assert "n=3" not in shown


def test_asked_columns_stand_behind_the_average(store: Path) -> None:
    shown = run_compare("--store", store, "--columns", "billed,macro_accuracy").output
    found = {title: (head, lines) for title, head, lines in tables(shown)}
    assert list(found) == ["1-shot", "1-shot, macro acc.", "4-shot", "4-shot, macro acc."]
    head, lines = found["1-shot"]
    assert head.split()[-3:] == ["average", "billed", "s"]
    assert lines[0].split()[-1] == "4.00"


def test_the_signature_is_below_or_beside_every_table(store: Path) -> None:
    (line,) = re.findall(r"^fsbench:1.*$", run_compare("--store", store).output, re.M)
    for form in ("markdown", "latex"):
        shown = run_compare("--store", store, "--format", form).output
        assert shown.replace(r"\allowbreak{}", "").replace(r"\textbar{}", "|").count(line[:20]) == 2


@needs("pdflatex")
def test_it_compiles(store: Path, tmp_path: Path) -> None:
    log = typeset(tmp_path, run_compare("--store", store, "--format", "latex").output)
    assert "LaTeX Error" not in log
