"""The newest version of a method is shown; older ones are named and can be selected."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.analysis.filters import version_key
from fewshot_bench.analysis.table.build import build
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.compare_records import make, read_csv, save, swept
from tests.support.helpers import fsbench
from tests.support.reproduced import three

ORDER = ("0.9", "1", "1.0", "1.9", "1.10", "2.dev1", "2a1", "2rc1", "2", "2.fixed", "9", "v10")


def test_versions_sort_as_people_count() -> None:
    mixed = list(ORDER)
    random.Random(0).shuffle(mixed)
    assert sorted(mixed, key=version_key) == list(ORDER)


@given(st.lists(st.text(max_size=6), max_size=6, unique=True))
def test_any_versions_have_an_order(versions: list[str]) -> None:
    keys = sorted(version_key(version) for version in versions)
    assert [key[1] for key in keys] == sorted(versions, key=version_key)
    assert len(set(keys)) == len(versions)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Version 9 of coop on two data sets, version 10 on one of them; zero-shot once."""
    opened = Store(tmp_path / "store")
    opened.create()
    records = [
        make("coop", "dtd", top1=50.0, method_version="9"),
        make("coop", "pets", top1=51.0, method_version="9"),
        make("coop", "dtd", top1=60.0, method_version="10", overrides={}),
        make("zero-shot", "dtd", top1=40.0),
        make("zero-shot", "pets", top1=41.0),
    ]
    for record in records:
        put_answers(opened, record, [[1.0, 2.0]], [0], ["a"])
    return opened.path


def rows(store: Path, *more: object) -> dict[str, str]:
    """Top-1 on dtd by row label."""
    done = fsbench("compare", "--store", store, "--format", "csv", "-d", "dtd", *more)
    assert done.code == 0, done.err
    return {row["method"]: row["top1_mean"] for row in read_csv(done.out)}


def test_the_newest_is_shown_and_older_ones_are_named(store: Path) -> None:
    assert rows(store) == {"coop": "60.0", "zero-shot": "40.0"}
    said = fsbench("compare", "--store", store).out
    assert "coop is shown in version 10; left out: 2 of version 9" in " ".join(said.split())
    assert "--method coop@9" in " ".join(said.split())


def test_versions_can_be_chosen(store: Path) -> None:
    assert rows(store, "-m", "coop@9") == {"coop": "50.0"}
    both = rows(store, "-m", "coop@9,coop,zero-shot", "--baseline", "coop@9")
    assert both == {"coop@9": "50.0", "coop@10": "60.0", "zero-shot": "40.0"}
    assert rows(store, "-m", "coop@10") == {"coop": "60.0"}
    assert fsbench("compare", "--store", store, "-m", "coop@8").code == 2
    assert rows(store, "--allow-mixed") == {
        "coop@9": "50.0",
        "coop@10": "60.0",
        "zero-shot": "40.0",
    }


def test_no_command_stands_for_what_an_older_version_lacks(tmp_path: Path) -> None:
    lacking = [make("coop", "dtd", method_version="1")]
    whole = [make("coop", name, method_version="2") for name in ("dtd", "pets")]
    store = save(tmp_path, [*lacking, *whole])
    for more in (("-m", "coop@1,coop"), ("--allow-mixed",)):
        shown = fsbench("compare", "--store", store, "--format", "json", *more)
        assert json.loads(shown.out)["meta"]["missing_commands"] == [], more
    unlike = save(tmp_path / "other", [*whole[:1], make("coop", "pets", method_version="1")])
    shown = fsbench("compare", "--store", unlike, "--format", "json", "-m", "coop@1,coop@2")
    (command,) = json.loads(shown.out)["meta"]["missing_commands"]
    assert "--dataset pets" in command


def test_where_only_older_results_match_they_are_named(store: Path) -> None:
    done = fsbench("compare", "--store", store, "-d", "pets", "-m", "coop")
    assert done.code == 2
    assert "--method coop@9 shows them" in done.err
    assert fsbench("compare", "--store", store, "-d", "pets", "-m", "coop@9").code == 0


def test_report_and_audit_show_the_newest(store: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert fsbench("report", "--store", store, "-O", page).code == 0
    assert "left out: 2 of version 9" in page.read_text(encoding="utf-8")
    audited = fsbench("audit", "--store", store, "--format", "json").out
    assert "left out: 2 of version 9" in audited
    assert "method-version" not in audited
    assert "coop@10" in audited


def test_a_sweep_draws_the_newest_version_or_the_one_that_is_named(tmp_path: Path) -> None:
    options = ("-o", "rank=1,2")
    records = swept(options)
    older = [
        dataclasses.replace(r, spec=dataclasses.replace(r.spec, method_version="1"), metrics=low)
        for r in records
        for low in [{"top1": 1.0}]
    ]
    store = save(tmp_path / "store", [*records, *older])
    words = ("compare", "--layout", "sweep", *options, "--store", store)
    shown = fsbench(*words, "-m", "clip-lora")
    assert "left out: 6 of version 1 (--method clip-lora@1" in " ".join(shown.out.split())
    drawn = fsbench(*words, "-m", "clip-lora@1", "--format", "json")
    assert {row["mean"] for row in json.loads(drawn.out)["rows"]} == {1.0}


def test_a_published_table_shows_the_version_that_is_named(tmp_path: Path) -> None:
    store = save(tmp_path, three("dtd", 54.0, method_version="1"))
    call = ("reproduce", "clip-lora-table3", "--store", store, "-d", "dtd", "--shots", "1")
    shown = fsbench(*call, "-m", "clip-lora", "--only-existing").out
    assert "--method NAME@VERSION --only-existing shows" in " ".join(shown.split())
    named = fsbench(*call, "-m", "clip-lora@1", "--only-existing", "--format", "json").out
    assert json.loads(named)["rows"][0]["ours"] == 54.0
    assert fsbench(*call, "-m", "clip-lora@1").code == 2


def test_a_label_names_the_version_too() -> None:
    overrides = {"overrides": {"rank": 4}, "options": {"rank": 4}}
    records = [make(method_version=version, **overrides) for version in ("1", "2")]
    assert [row.label for row in build(records).rows] == ["coop@1[rank=4]", "coop@2[rank=4]"]
