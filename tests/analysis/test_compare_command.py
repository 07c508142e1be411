"""The command `fsbench compare`: filters, files, errors, speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_bench.analysis.table.table import AVERAGE
from fewshot_bench.utils.errors import DataMissingError, UsageError
from fewshot_bench.utils.spelling import spell_once
from tests.support.compare_records import make, matrix, read_csv, run_compare, save


def test_command_filters_and_writes(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", matrix())
    target = tmp_path / "table.csv"
    words = ("--store", folder, "--method", "zero-shot", "--shots", "4", "--seeds", "2,1")
    result = run_compare(*words, "--format", "csv", "-O", target)
    assert (result.exit_code, result.output) == (0, "")
    lines = read_csv(target.read_text())
    assert [line["dataset"] for line in lines] == ["dtd", "pets", AVERAGE]
    assert {line["n_seeds"] for line in lines} == {"2"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["table.csv"]
    result = run_compare("--store", folder, "-O", tmp_path / "absent" / "x")
    assert isinstance(result.exception, UsageError)


def test_command_keeps_the_asked_order(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", matrix())
    words = ("--store", folder, "--method", "zero-shot,coop", "--dataset", "pets,dtd")
    rows = json.loads(run_compare(*words, "--format", "json").output)["rows"]
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
        (("--method", "clip-lora"), "method 'clip-lora' has no results here: fsbench run -m clip-"),
        (("--method", "prompts,deep"), "method 'deep' has no results here"),
        (("--baseline", "clap"), "baseline 'clap' has no results here"),
        (("--dataset", "digits"), "data set 'digits' has no results here: fsbench run -d digits"),
        (("--dataset", "demo"), "data set 'demo' has no results here"),
    ],
)
def test_unknown_names(tmp_path: Path, words: tuple[str, str], message: str) -> None:
    folder = save(tmp_path / "store", matrix())
    error = run_compare("--store", folder, *words).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert message in str(error)
    assert "\n" not in str(error)


def test_filters_take_the_suites_that_runs_take(tmp_path: Path) -> None:
    folder = save(tmp_path, matrix(("coop", "clap"), ("letters", "dtd", "digits", "pets")))
    for words, sets in (("demo", {"digits", "letters"}), ("all,letters", {"dtd", "letters"})):
        shown = run_compare("--store", folder, "--format", "csv", "-d", words, "-m", "all")
        rows = read_csv(shown.stdout)
        assert {row["dataset"] for row in rows} - {AVERAGE} == sets
        assert {row["method"] for row in rows} == {"coop", "clap"}


def test_filters_take_the_ranges_that_runs_take(tmp_path: Path) -> None:
    records = [*matrix(shots=(1, 2, 16), seeds=(1, 2, 10)), make(shots=2, train_seed=3)]
    shown = run_compare(
        *("--store", save(tmp_path, records), "--format", "csv"),
        "--shots",
        "2-9,16",
        "--seeds",
        "1-3",
    )
    found = [row for row in read_csv(shown.stdout) if row["dataset"] != "average"]
    assert {row["shots"] for row in found} == {"2", "16"}
    assert {row["seeds"] for row in found} == {"1;2"}
    refused = run_compare("--store", tmp_path, "--shots", "3-9")
    assert "unknown number of shots '3-9'" in str(refused.exception)


def test_empty_and_damaged_stores(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", save(tmp_path / "empty", [])):
        error = run_compare("--store", folder).exception
        assert isinstance(error, DataMissingError)
        assert error.exit_code == 3
        assert "fsbench run" in str(error)
    folder = save(tmp_path / "damaged", matrix())
    next(folder.rglob("*.json")).write_text("{")
    result = run_compare("--store", folder)
    assert result.exit_code == 0
    assert "not used: " in result.output
    assert isinstance(run_compare("--store", next(folder.rglob("*.json"))).exception, UsageError)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; import fewshot_bench.cli.compare, fewshot_bench.store.store, "
        "fewshot_bench.analysis.table.build, fewshot_bench.analysis.formats.terminal; "
        "print([m for m in ('torch', 'scipy', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


def test_relative_places_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("com,ma", "plain"):
        (tmp_path / name).mkdir()
    spelled = [spell_once(f"folder:{name}") for name in ("com,ma", "plain")]
    records = [make("coop", name) for name in (*spelled, "dtd")]
    folder = save(tmp_path / "store", records)
    for asked, names in (
        ("folder:com,ma", spelled[:1]),
        (spelled[0], spelled[:1]),
        ("dtd,folder:plain,folder:com,ma", ["dtd", *spelled[::-1]]),
        ("folder:com\\,ma,dtd", [spelled[0], "dtd"]),
    ):
        found = run_compare("--store", folder, "-d", asked, "--format", "csv")
        assert found.exit_code == 0, found.exception
        shown = [row["dataset"] for row in read_csv(found.output)]
        assert list(dict.fromkeys(name for name in shown if name != "average")) == names
