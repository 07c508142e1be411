"""Names from files and plug-ins are never interpreted: in tables, terminal, paths and records."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fewshot_bench.analysis.table.build import build
from fewshot_bench.cli.output import say
from fewshot_bench.engines.reporting import outcome
from fewshot_bench.splits.imported import path_of_import
from fewshot_bench.store.store import Store
from tests.support.compare_records import make, written
from tests.support.helpers import fsbench

STEERING = "a\x1b[2J\x1b]0;x\x07\x9b1m\u202eb\u2028c\ud800"
SECRET = "hf_abcdefghijklmnop"


def steers(text: str) -> set[str]:
    """Characters of a text that control a terminal."""
    return {c for c in text if not c.isprintable() and c != "\n"}


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex"])
def test_tables_do_not_steer_the_terminal(form: str) -> None:
    records = [make(STEERING, STEERING, shots=shots) for shots in (1, 2)]
    table = build([*records, make("coop", STEERING, shots=1, seed=2)])
    shown = written(form, table)
    # Such a name cannot be typed: a note appears in place of a command.
    assert not table.commands
    assert "no command can express the name" in " ".join(shown.split())
    assert not steers(shown)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r", " =", "\uff1d", "\n@"])
def test_csv_cells_are_no_formulas(start: str) -> None:
    text = written("csv", build([make(f"{start}cmd|' /C calc'!A0", f"{start}x")]))
    for row in csv.DictReader(io.StringIO(text)):
        for name in ("method", "dataset"):
            if row[name] != "average":
                assert row[name].startswith("'")
        for value in row.values():
            assert not value.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_outcomes_and_lines_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert not steers(outcome(make(STEERING)))
    assert not steers(outcome(make("coop", STEERING, top1=None)))
    say(f"{STEERING}\nsecond")
    out = capsys.readouterr().out
    assert not steers(out)
    assert out.endswith("\nsecond\n")


def test_damaged_records_are_named_without_their_characters(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(make())
    (path,) = tmp_path.glob("records/*/*.json")
    path.write_text(json.dumps(make().to_dict() | {"status": STEERING}))
    result = fsbench("compare", "--store", tmp_path)
    assert result.code == 3
    assert "not used: " in result.err
    assert not steers(result.err)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", ".", "a/b", "a\0b", "C:\\x", "", "é"])
def test_names_of_data_sets_stay_in_the_store(tmp_path: Path, name: str) -> None:
    path = path_of_import(tmp_path, name, 1, 1)
    assert path.parent.parent == tmp_path / "splits"
    assert path.parent.name not in ("", ".", "..")
    assert path.name == "shot_1-seed_1.json"


def test_secrets_of_the_environment_stand_in_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    monkeypatch.setenv("SHORT_TOKEN", "coop")
    error = {
        "type": "E",
        "message": f"401 for {SECRET}-HF_TOKEN",
        "traceback": f"{SECRET}-HF_TOKEN",
    }
    record = make(top1=None).to_dict() | {
        "error": error,
        "notes": {"a": [f"x {SECRET}-MY_PASSWORD"]},
        "incidents": [{"kind": "retry", "text": f"{SECRET}-OPENAI_API_KEY"}],
    }
    store = Store(tmp_path)
    stored = store.write(type(make()).from_dict(record))
    (path,) = tmp_path.glob("records/*/*.json")
    assert SECRET not in path.read_text()
    assert stored.error is not None
    assert stored.error["message"] == "401 for ***"
    assert stored.spec.method == "coop"
    assert list(store.records()) == [stored]
