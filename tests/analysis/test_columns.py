"""A cost is one `Cost`: a new one appears in tables, CSV, JSON, sorting and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.costs import COSTS, TRAINED, parameters
from fewshot_bench.api.method_card import MethodCard
from fewshot_bench.api.record import Record
from tests.support.compare_records import make, read_csv, save, written
from tests.support.helpers import fsbench


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add optimizer steps as a cost, declared like those in `COSTS`."""
    column = dataclasses.replace(
        TRAINED,
        name="steps",
        head="optimizer steps",
        key="optimizer_steps",
        source="footprint.steps",
        title="steps",
        axis="optimizer steps",
        subject="steps",
        sentence=lambda words, _: f"takes {words} steps",
    )
    assert isinstance(COSTS, dict)
    monkeypatch.setitem(COSTS, "steps", column)


def records() -> list[Record]:
    found = []
    for method, count in (("coop", 400), ("tip-adapter", 20)):
        for seed in (1, 2, 3):
            record = make(method, seed=seed, top1=70.0 + seed)
            footprint = {**record.footprint, "steps": count + seed}
            found.append(dataclasses.replace(record, footprint=footprint))
    return found


def test_it_stands_in_every_format_and_orders_lines() -> None:
    table = build(records(), Options(sort="steps"))
    assert "optimizer steps" in written("terminal", table)
    assert "| 402 |" in written("markdown", table)
    assert "& 22 \\\\" in written("latex", table)
    rows = read_csv(written("csv", table))
    assert [row["method"] for row in rows if row["dataset"] == "dtd"] == ["tip-adapter", "coop"]
    assert [row["optimizer_steps"] for row in rows if row["dataset"] == "dtd"] == ["22.0", "402.0"]
    assert json.loads(written("json", table))["rows"][0]["optimizer_steps"] == 22


@pytest.mark.parametrize("shots", [(4,), (1, 4)])
def test_a_cost_of_which_higher_is_better_has_the_highest_first(
    monkeypatch: pytest.MonkeyPatch, shots: tuple[int, ...]
) -> None:
    assert isinstance(COSTS, dict)
    rate = dataclasses.replace(COSTS["steps"], name="rate", key="rate", higher_is_better=True)
    monkeypatch.setitem(COSTS, "rate", rate)
    found = [
        dataclasses.replace(made, footprint={**made.footprint, "steps": steps + k})
        for method, steps in (("coop", 20), ("tip-adapter", 400))
        for k in shots
        for made in [make(method, "dtd", k)]
    ]
    rows = {
        sort: [row["method"] for row in read_csv(written("csv", build(found, Options(sort=sort))))]
        for sort in ("steps", "rate")
    }
    assert list(dict.fromkeys(rows["steps"])) == ["coop", "tip-adapter"]
    assert list(dict.fromkeys(rows["rate"])) == ["tip-adapter", "coop"]


def test_the_latency_of_an_answer_is_a_column(tmp_path: Path) -> None:
    record = make("coop", "dtd", 4)
    spent = {"encode_queries": 1.5, "predict": 0.5}
    phases = {name: {"billed": {"wall": seconds}} for name, seconds in spent.items()}
    made = dataclasses.replace(
        record,
        timings={**record.timings, "phases": phases},
        split={**record.split, "test": 300, "bystanders": 100},
    )
    store = save(tmp_path / "s", [made, make("gda", "dtd", 4)])
    rows = read_csv(fsbench("compare", "--store", store, "--format", "csv").out)
    assert {row["method"]: row["latency_ms"] for row in rows} == {"coop": "5.0", "gda": ""}
    words = ("--columns", "latency", "--sort", "latency")
    shown = fsbench("compare", "--store", store, *words).out
    assert "ms/query" in shown
    assert "5.00" in shown


def test_the_report_shows_it(tmp_path: Path) -> None:
    store, page = save(tmp_path / "s", records()), tmp_path / "r.html"
    assert fsbench("report", "--store", store, "-O", page).code == 0
    text = page.read_text(encoding="utf-8")
    assert "402 steps" in text or "22 steps" in text
    assert "optimizer steps" in text


def test_a_schedule_names_changed_options_in_records_of_before_too() -> None:
    """Cards of older records contain only the schedule of the defaults."""
    record = make(overrides={"epochs": 5})
    for card in (
        MethodCard("coop-50/100/200").to_dict(),
        MethodCard("coop-50/100/200").to_dict({"epochs": 5}),
    ):
        found = dataclasses.replace(record, footprint={**record.footprint, "card": card})
        assert found.schedule == "coop-50/100/200 with epochs=5"
        assert found.default_schedule == "coop-50/100/200"


def test_facts_of_methods_stand_beside_records_of_before() -> None:
    card = MethodCard("coop-50/100/200", text="class names").to_dict({"epochs": 5})
    old, new, other = make(), make(seed=2, overrides={"epochs": 5}), make("gda")
    new = dataclasses.replace(new, footprint={**new.footprint, "card": card})
    named = Options(columns="schedule,text knowledge", allow_mixed=True)
    lines = read_csv(written("csv", build([old, new, other], named)))
    shown = [
        (r["method"], r["schedule"], r["text knowledge"]) for r in lines if r["dataset"] == "dtd"
    ]
    told = ("coop[epochs=5]", "coop-50/100/200 with epochs=5", "class names")
    assert shown == [("coop", "", ""), told, ("gda", "", "")]
    assert "schedule" not in written("terminal", build([old, new, other], Options()))


@pytest.mark.parametrize(
    ("value", "text"),
    [(999, "999"), (1e3, "1.0 k"), (184_320, "184.3 k"), (999_949, "999.9 k"), (999_950, "1.0 M")],
)
def test_numbers_of_parameters_are_rounded_to_the_right_unit(value: float, text: str) -> None:
    assert parameters(value) == text
