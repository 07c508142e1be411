"""Inapplicable cells: n/a with a reason, never a number, a missing cell or a failure."""

from __future__ import annotations

import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.record import Record
from tests.support.compare_records import TIED, cell, halves, inapplicable, make, written

NOTE = f"n/a linear-probe: {TIED}"
DERIVED = ("dtd (H)", "pets (H)", "average (new)", "average (H)")


def store() -> list[Record]:
    """Records of coop for all cells, and of linear-probe for base classes only."""
    records = []
    for name in ("dtd", "pets"):
        for seed in (1, 2):
            records += halves("coop", name, seed, 60, 40)
            records.append(make("linear-probe", name, 1, seed, 80.0, classes="base"))
            records.append(inapplicable("linear-probe", name, 1, seed, classes="new"))
    return records


def test_cells_and_what_is_derived_from_them() -> None:
    table = build(store())
    for label in ("dtd (new)", "pets (new)", *DERIVED):
        found = cell(table, label, "linear-probe", 1)
        assert (found.status, found.reason) == ("inapplicable", TIED)
        assert (found.estimates, found.missing_seeds, found.failed) == ({}, (), 0)
    assert cell(table, "average (base)", "linear-probe", 1).estimates["top1"].mean == 80
    assert cell(table, "average (new)", "coop", 1).estimates["top1"].mean == 40


def test_one_note_per_method_and_nothing_to_run() -> None:
    table = build(store())
    assert table.notes[-1] == NOTE
    assert len(table.notes) == 2
    assert table.commands == ()


def test_it_is_no_hole_where_seeds_are_missing() -> None:
    records = [r for r in store() if r.status != "inapplicable" or r.spec.split_seed == 1]
    table = build(records)
    assert (cell(table, "dtd (new)", "linear-probe", 1).missing_seeds, table.commands) == ((), ())


def test_it_outranks_what_is_missing_beside_it() -> None:
    records = [r for r in store() if not _is(r, "pets", "inapplicable")]
    table = build(records)
    assert cell(table, "pets (new)", "linear-probe", 1).status == "missing"
    found = cell(table, "average (new)", "linear-probe", 1)
    assert (found.status, found.reason) == ("inapplicable", TIED)
    assert "--dataset pets --classes new" in table.commands[0]


def _is(record: Record, dataset: str, status: str) -> bool:
    return (record.spec.dataset, record.status) == (dataset, status)


@pytest.mark.parametrize("baseline", ["linear-probe", "coop"])
def test_differences(baseline: str) -> None:
    table = build(store(), Options(baseline=baseline))
    other = "coop" if baseline == "linear-probe" else "linear-probe"
    assert cell(table, "dtd (base)", other, 1).delta is not None
    for label in ("dtd (new)", "dtd (H)", "average (H)"):
        assert cell(table, label, other, 1).delta is None
        text = written("terminal", table).split(f"{label}  difference", 1)[1]
        (line,) = [line for line in text.splitlines() if line.startswith(other)][:1]
        assert line.split() == [other, "n/a"]
    assert "no difference" not in "\n".join(table.notes)


def test_a_cell_that_is_not_expected_has_no_difference_that_is_inapplicable() -> None:
    table = build([make("zero-shot", shots=0), inapplicable("coop")], Options(baseline="coop"))
    differences = written("terminal", table).partition("difference to coop")[2]
    (line,) = [line for line in differences.splitlines() if line.startswith("zero-shot")]
    assert line.split() == ["zero-shot", "—"]


def test_rows_of_one_reason_share_a_note() -> None:
    records = [
        *halves("coop", "dtd", 1, 60, 40),
        inapplicable("coop", "dtd", classes="new", overrides={"csc": True}, options={"csc": True}),
        inapplicable("linear-probe", "dtd", classes="new"),
        inapplicable("linear-probe", "dtd", classes="new", overrides={"c": 1}, options={"c": 1}),
    ]
    assert _na_notes(build(records)) == [
        f"n/a coop[csc=True], linear-probe, linear-probe[c=1]: {TIED}",
    ]


def _na_notes(table: Table) -> list[str]:
    return [note for note in table.notes if note.startswith("n/a")]


def test_a_failure_beside_it_is_still_named() -> None:
    records = [
        inapplicable("lp", "dtd", classes="new"),
        make("lp", "dtd", seed=2, top1=None, classes="new"),
    ]
    table = build(records)
    assert cell(table, "dtd (new)", "lp", 1).status == "inapplicable"
    assert any("1 failed" in note for note in table.notes)


def test_numbers_beside_it_are_partial() -> None:
    records = [make("lp", classes="new"), inapplicable("lp", seed=2, classes="new")]
    table = build(records)
    found = cell(table, "dtd (new)", "lp", 1)
    assert (found.status, found.estimates["top1"].n) == ("partial", 1)
    assert found.reason == f"{TIED} (seeds 2)"
    assert f"lp on dtd (new), 1-shot: 1 ({TIED} (seeds 2))" in "\n".join(table.notes)
