"""Own class names, templates and hold-out: shown in tables, never mixed, included in commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.export import rows as table_rows
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import make, run_compare, save, written


def own(method: str = "coop", **data: object) -> Record:
    return make(method, "dtd", seed=2 if data else 1, data=data)


def test_own_data_does_not_mix() -> None:
    records = [own(), own(templates=["a {}"]), make("coop", "pets")]
    with pytest.raises(UsageError, match=r"own data of 'dtd' \('[0-9a-f]{12}' in 1 record, 'none"):
        build(records)
    table = build(records, Options(allow_mixed=True))
    digest = table.conditions["own data"][0]
    assert f"coop own data={digest}" in [row.label for row in table.rows]
    assert "coop own data=none" in [row.label for row in table.rows]


def test_own_data_is_said_and_stands_in_the_commands() -> None:
    data = {"classnames": ["x", "y"], "templates": ["my {}."], "holdout": 0.25}
    table = build([make(data=data), make("b", data=data), make("b", seed=2, data=data)])
    (digest,) = table.conditions["own data"]
    assert f"own data {digest}" in written("terminal", table)
    note = f"own data {digest}: dtd with own classnames, templates, holdout"
    assert any(line.startswith(note) for line in table.notes)
    (line,) = table.commands
    assert "--holdout 0.25 --templates 'my {}.' --classnames FILE" in line
    assert any("put their file in the place of FILE" in note for note in table.notes)
    assert {row["own_data"] for row in table_rows(table)} == {digest, ""}


def test_own_data_is_the_data_sets() -> None:
    table = build(
        [make(data={"holdout": 0.5}), make("b", data={"holdout": 0.5}), make("b", "pets")]
    )
    (line,) = table.commands
    assert "--dataset pets --shots" in line


def test_own_data_can_be_chosen(tmp_path: Path) -> None:
    folder = save(tmp_path / "store", [own(), own(holdout=0.5), own("b", holdout=0.5)])
    (digest,) = build([own(holdout=0.5)]).conditions["own data"]
    shown = run_compare("--store", folder).output
    heads = [line for line in shown.splitlines() if line.startswith("Conditions")]
    assert heads == [f"Conditions 1 of 2: own data {digest}", "Conditions 2 of 2: own data none"]
    for value, count in (("none", 1), (digest[:5], 2)):
        result = run_compare("--store", folder, "--own-data", value)
        assert result.exit_code == 0, result.exception
        assert f"{count} record" in result.output
    error = run_compare("--store", folder, "--own-data", "xyz").exception
    assert isinstance(error, UsageError)
    assert "unknown own data 'xyz'" in str(error)


def test_class_names_of_several_data_sets_are_several_commands() -> None:
    data = {"classnames": ["x", "y"]}
    records = [make("a", name, data=data) for name in ("dtd", "pets")]
    lines = build([*records, make("b", "cars")]).commands
    for name in ("dtd", "pets"):
        (line,) = [one for one in lines if f"--method b --dataset {name} " in one]
        assert line.endswith(" --classnames FILE")
