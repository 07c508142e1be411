"""Reference results: what the file holds, what `compare --with reference` shows, and its script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from fewshot_bench.analysis import reference
from fewshot_bench.api.registry import registry
from scripts import make_reference
from tests.support.helpers import fsbench

# Cheap ones of several families: digits, one seed, seconds together.
METHODS = ("zero-shot", "gda", "tip-adapter", "clip-adapter", "ape-t")
SUITE = ("-d", "digits", "--seeds", "1", "--backbone", "tiny", "--device", "cpu")
WITH = ("--with", "reference")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of the reference, computed here."""
    folder = tmp_path_factory.mktemp("reference") / "store"
    run = fsbench("run", "-m", ",".join(METHODS), "--shots", "4", *SUITE, "--store", folder)
    assert run.code == 0, run.err
    return folder


def rows_of(store: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of a comparison as CSV."""
    shown = fsbench("compare", "--store", store, "--format", "csv", *arguments)
    assert shown.code == 0, shown.err
    return list(csv.DictReader(io.StringIO(shown.out)))


def without(row: Mapping[str, str], *names: str) -> dict[str, str]:
    """A row without some columns."""
    return {name: value for name, value in row.items() if name not in names}


def test_the_file_is_sorted_and_as_it_would_be_written() -> None:
    lines, shared = reference.read()
    text = make_reference.FILE.read_text(encoding="utf-8")
    assert text == reference.write_lines(reversed(lines), shared)
    assert len({line.key for line in lines}) == len(lines)
    assert {line.method for line in lines} <= set(registry().methods.names())
    assert all((line.correct is None) == (line.status != "done") for line in lines)
    assert all(line.reason for line in lines if line.status != "done")


def test_every_method_is_there() -> None:
    lines = reference.read()[0]
    assert {line.method for line in lines} == set(registry().methods.names())
    for method in {line.method for line in lines}:
        own = {line.place[1:] for line in lines if line.method == method}
        shots = {place[1] for place in own}
        assert shots in ({0}, set(reference.SHOTS)), method
        assert {place[0] for place in own} <= set(reference.DATASETS)
        assert {place[2] for place in own} <= set(reference.SEEDS)


def test_cells_computed_here_are_those_of_the_reference(store: Path) -> None:
    assert make_reference.main(["--check", "--no-run", "--store", str(store)]) == 0
    shown = fsbench("compare", "--store", store, *WITH)
    assert f"{len(METHODS)} cells of the store and of the reference" in shown.out
    assert "not what the reference computes" not in shown.out


def test_a_changed_number_is_told(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, shared = reference.read()
    moved = [
        msgspec.structs.replace(line, correct=(line.correct or 0) + 40)
        if line.method == "gda"
        else line
        for line in lines
    ]
    monkeypatch.setattr(reference, "read", lambda: (moved, shared))
    shown = fsbench("compare", "--store", store, *WITH)
    assert "gda is not what the reference computes (images: digits seed 1: 40)" in shown.out
    assert make_reference.main(["--check", "--no-run", "--store", str(store)]) == 1
    told = capsys.readouterr().out
    assert "gda on digits, 4-shot, seed 1: " in told
    assert "zero-shot" not in told


def test_rows_of_the_reference_stand_beside_those_of_the_store(store: Path) -> None:
    alone, both = rows_of(store), rows_of(store, *WITH)
    here = [row for row in both if row["source"] == str(store)]
    there = {row["method"]: row for row in both if row["source"] == "reference"}
    # Own rows are as before: nothing is averaged with them, and nothing more is missing.
    assert [without(row, "source") for row in here] == alone
    assert "source" not in alone[0]
    lines = [line for line in reference.read()[0] if line.place[1::2] == ("digits", 1)]
    lines = [line for line in lines if (line.queries, line.views) == ("alone", 1)]
    assert set(there) == {f"{line.method} source=reference" for line in lines}
    for line in lines:
        row = there[f"{line.method} source=reference"]
        assert float(row["top1_mean"]) == pytest.approx(100 * line.correct / line.images, abs=1e-5)
        assert int(row["trained_params"]) == line.trained
        assert int(row["shots"]) == line.shots


def test_methods_that_need_company_are_there_if_asked_for(store: Path) -> None:
    assert "stata" not in fsbench("compare", "--store", store, *WITH).out
    names = {row["method"] for row in rows_of(store, *WITH, "--queries", "all")}
    # What needs no company counts here, from both sources.
    assert {"stata source=reference", "gda source=reference", "gda"} <= names


def test_no_row_of_the_reference_is_tested_or_run(store: Path) -> None:
    asked = ("compare", "--store", store, "--format", "json", "-m", "gda,zero-shot")
    alone, both = (json.loads(fsbench(*asked, *more).out)["meta"] for more in ((), WITH))
    assert both["records"] == alone["records"] == 2
    assert both["signature_line"] == alone["signature_line"]
    assert not both["missing_commands"]
    tested = fsbench("compare", "--store", store, *WITH, "--baseline", "zero-shot")
    assert "no test is of rows of reference, whose logits are not here" in tested.out
    table = tested.out.partition("significance")[2].partition("protocol ")[0]
    assert "gda" in table
    assert "source=reference" not in table


def test_the_baseline_may_be_a_row_of_the_reference(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    fsbench("run", "-m", "gda", "--shots", "4", *SUITE, "--store", folder)
    rows = rows_of(folder, *WITH, "--baseline", "linear-probe", "-m", "gda,linear-probe")
    deltas = {row["method"]: row["delta_mean"] for row in rows}
    lines = {x.method: x.correct for x in reference.read()[0] if x.place[1:] == ("digits", 4, 1)}
    expected = 100 * (lines["gda"] - lines["linear-probe"]) / 1197
    assert float(deltas["gda"]) == pytest.approx(expected, abs=0.3)
    assert not deltas["linear-probe source=reference"]


def test_nothing_of_it_is_read_without_the_option(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "read", lambda: pytest.fail("read"))
    assert fsbench("compare", "--store", store).code == 0


def test_a_store_of_other_cells_is_told_what_to_run(tmp_path: Path) -> None:
    store = tmp_path / "store"
    more = ("-d", "letters", "--seeds", "7", "--backbone", "tiny", "--limit", "20")
    fsbench("run", "-m", "gda", "--shots", "1", *more, "--store", store)
    shown = fsbench("compare", "--store", store, *WITH)
    assert shown.code == 2
    assert "the store has none of its cells; make some with: fsbench run -m" in shown.err


@pytest.mark.parametrize("more", [("--per-class",), ("--layout", "sweep")])
def test_what_is_of_one_store_is_refused(store: Path, more: tuple[str, ...]) -> None:
    shown = fsbench("compare", "--store", store, *WITH, *more)
    assert shown.code == 2
    assert "is of the records of one store" in shown.err
