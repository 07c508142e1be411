"""Records count in tables that allow more than they need, once that is verified, and only there."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.comparison import blocks_of
from fewshot_bench.analysis.conditions import refuse_mixed
from fewshot_bench.analysis.frame import COLUMNS, frame
from fewshot_bench.analysis.lending import LENT, allow, lend
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import CONDITIONS, RunSpec
from fewshot_bench.api.violations import HIDDEN_VIEWS
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import inapplicable, make, read_csv, save, stated
from tests.support.helpers import fsbench
from tests.support.report_pages import read

INDUCTIVE = tuple(f"method-{number:02}" for number in range(35))
# Two values of every condition, the default first.
OTHERS: Mapping[str, Any] = {
    "protocol": "clip-lora",
    "val": "none",
    "prompts": "simple",
    "backbone": "other",
    "precision": "bf16",
    "device": "cuda",
    "limit": 10,
    "weights": "ab" * 32,
    "exif": "rotate",
    "published": True,
    "augment": "device",
    "queries": "all",
    "views": 64,
    "bystanders": "new",
    "texts": "cupl@sha256:0123456789abcdef",
    "pooling": "max",
}


def blocks(records: list[Record]) -> dict[str, list[str]]:
    """The rows of each block, by its title."""
    return {b.title: sorted({r.spec.method for r in b.records}) for b in blocks_of(records)}


@pytest.fixture(name="records", scope="module")
def of_all() -> list[Record]:
    """Inductive methods alone, a transductive one under all, one with views, and a cheat."""
    alone = [
        stated(name, seed=seed, top1=50.0 + number)
        for number, name in enumerate(INDUCTIVE)
        for seed in (1, 2)
    ]
    more = [stated("transclip", True, queries="all", seed=seed, top1=90.0) for seed in (1, 2)]
    return [*alone, *more, stated("cheat", True)]


@pytest.fixture(name="store", scope="module")
def of_records(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    views = stated("mta", views=64)
    return save(tmp_path_factory.mktemp("lending") / "s", [*records, views])


def test_every_proof_is_a_column_and_only_company_views_and_texts_are_lent() -> None:
    assert set(LENT) == {"queries", "views", "bystanders", "texts", "pooling"}
    assert {about.proof for about in LENT.values()} <= set(COLUMNS)
    assert set(OTHERS) == set(CONDITIONS)


def test_inductive_records_stand_in_the_block_of_a_transductive_method(
    records: list[Record],
) -> None:
    found = blocks(records)
    assert list(found) == ["queries alone", "queries all"]
    assert found["queries alone"] == sorted([*INDUCTIVE, "cheat"])
    assert found["queries all"] == sorted([*INDUCTIVE, "transclip"])
    for title, count in (("queries alone", 36), ("queries all", 36)):
        assert len(found[title]) == count


def test_no_number_and_no_key_changes_and_the_spec_says_what_is_allowed(
    records: list[Record],
) -> None:
    own = {record.spec.key(): record for record in records}
    _, block = blocks_of(records)
    for record in block.records:
        before = own[record.spec.key()]
        assert record.spec.queries == "all"
        assert before.spec == dataclasses.replace(record.spec, queries=before.spec.queries)
        assert dataclasses.replace(record, spec=before.spec) == before
        assert record.less == (("queries alone",) if before is not record else ())
    refuse_mixed(block.data)


def test_the_same_blocks_in_whatever_order_records_are_read(records: list[Record]) -> None:
    twins = [*records, stated("method-00", queries="all", top1=1.0), stated("mta", views=64)]

    def seen(mixed: list[Record]) -> list[tuple[str, set[tuple[str, str]]]]:
        return [
            (b.title, {(r.spec.key(), repr(r.spec)) for r in b.records}) for b in blocks_of(mixed)
        ]

    expected = seen(twins)
    for number in range(5):
        mixed = random.Random(number).sample(twins, len(twins))
        assert seen(mixed) == expected


def test_a_record_of_the_condition_itself_counts_in_place_of_a_lent_one() -> None:
    own = stated(queries="all", top1=10.0)
    found = {b.title: b.records for b in blocks_of([stated(), own, stated("b")])}
    (coop,) = [r for r in found["queries all"] if r.spec.method == "coop"]
    assert coop is own
    few, many = stated(views=4), stated(views=16)
    (counted,) = lend([few, stated(), many], {"views": 64})
    assert counted.spec.key() == many.spec.key()


@pytest.mark.parametrize("depends", [None, True])
def test_what_is_not_verified_is_not_lent(depends: bool | None) -> None:
    both = [stated(depends=depends), stated("b", True, queries="all")]
    assert blocks(both) == {"queries all": ["b"], "queries alone": ["coop"]}
    assert lend(both[:1], {"views": 64}) == []
    kept, notes = allow(both, {"queries": "all"})
    assert [record.spec.method for record in kept] == ["b"]
    assert notes == ("left out of queries all: coop (run under less, and may depend on it)",)


def test_bystanders_are_among_queries_of_the_base_half_alone() -> None:
    """No other cell exists, so a table that allows them neither holds one nor misses one."""
    beside = stated("transclip", True, queries="all", bystanders="new", classes="base")
    inductive = [stated("zero-shot", classes=classes) for classes in ("base", "new", "all")]

    made = {block.title: block.records for block in blocks_of([beside, *inductive])}

    assert {r.spec.classes for r in made["queries all, bystanders new"]} == {"base"}


def test_what_is_not_as_its_card_declares_is_lent_to_no_block() -> None:
    hidden = stated("hidden")
    hidden = dataclasses.replace(
        hidden, footprint={**hidden.footprint, "violations": [HIDDEN_VIEWS]}
    )
    found = blocks([hidden, stated("tda", True, queries="stream"), stated("probe")])
    assert found == {"queries alone": ["hidden", "probe"], "queries stream": ["probe", "tda"]}


def test_texts_are_lent_to_methods_without_templates_alone() -> None:
    file = "cupl@sha256:0123456789abcdef"
    probe = stated("linear-probe", text="none")
    both = [stated(), probe, stated("zs", texts=file, pooling="max")]
    found = blocks(both)
    assert found["texts templates, pooling unit-mean"] == ["coop", "linear-probe"]
    assert found[f"texts {file}, pooling max"] == ["linear-probe", "zs"]


def test_what_has_no_result_follows_its_row() -> None:
    failed = make(seed=2, top1=None)
    never = inapplicable("b")
    both = [stated(), failed, never, stated("t", True, queries="all")]
    found = {b.title: [(r.spec.method, r.status) for r in b.records] for b in blocks_of(both)}
    assert found["queries all"] == [("coop", "done"), ("coop", "failed"), ("t", "done")]


# Whatever two other conditions are, they only stand apart.
PAIRS = [pair for pair in itertools.combinations(OTHERS, 2) if not LENT.keys().isdisjoint(pair)]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_conditions_never_mix(pair: tuple[str, str]) -> None:
    """Every pair of values of every two conditions stands apart, or is verified to need less."""
    every = [
        stated(f"m{number}{text}", depends, text, **dict(values))
        for number, values in enumerate(
            itertools.product(*([(n, OTHERS[n]), ("shots", 1)] for n in pair))
        )
        for depends, text in ((False, "none"), (None, "templates"))
    ]
    with pytest.raises(UsageError, match="records differ in"):
        refuse_mixed(frame(every))
    made = blocks_of(every)
    assert len(made) == 4
    titles = set()
    for block in made:
        refuse_mixed(block.data)
        titles.add(block.title)
        specs = {tuple(getattr(r.spec, n) for n in pair) for r in block.records}
        assert len(specs) == 1
        for record in block.records:
            (own,) = [each for each in every if each.spec.key() == record.spec.key()]
            for name in CONDITIONS:
                had, has = getattr(own.spec, name), getattr(record.spec, name)
                if had != has:
                    assert had == CONDITIONS[name].default
                    assert own.spec.method.endswith("none")
    assert len(titles) == 4


def test_the_filter_of_a_condition_is_what_is_allowed(store: Path) -> None:
    def rows(*words: str) -> list[dict[str, str]]:
        return read_csv(fsbench("compare", "--store", store, "--format", "csv", *words).out)

    alone = {row["method"] for row in rows("--queries", "alone", "--views", "1")}
    assert alone == {*INDUCTIVE, "cheat"}
    every = rows("--queries", "all", "--views", "64")
    assert {row["method"] for row in every} == {*INDUCTIVE, "transclip", "mta"}
    assert {(row["queries"], row["views"]) for row in every} == {("all", "64")}
    # The numbers are those of the records.
    before = {row["method"]: row["top1_mean"] for row in rows("--queries", "alone")}
    assert {m: v for m, v in before.items() if m in INDUCTIVE} == {
        row["method"]: row["top1_mean"] for row in every if row["method"] in INDUCTIVE
    }
    wrong = fsbench("compare", "--store", store, "--queries", "al")
    assert (wrong.code, "did you mean 'all'?" in wrong.err) == (2, True)


def test_a_table_says_what_it_was_lent_and_what_it_was_not(store: Path) -> None:
    text = " ".join(
        fsbench("compare", "--store", store, "--queries", "all", "--views", "1").out.split()
    )
    assert "queries all; 72 records" in text
    assert (
        "* left out of queries all, views 1: cheat (run under less, and may depend on it)" in text
    )
    assert (
        "* run with queries alone, and counted here as verified to need no more: method-00" in text
    )


def test_conditions_side_by_side_are_blocks_of_one_table(store: Path) -> None:
    shown = fsbench(
        *("compare", "--store", store, "--layout", "paper", "--stack", "queries", "--views", "1")
    )
    assert shown.out.index("\nqueries alone, dtd\n") < shown.out.index("\nqueries all, dtd\n")
    assert shown.out.count("method-07") >= 2


def test_missing_cells_are_asked_for_under_what_the_table_allows(tmp_path: Path) -> None:
    some = [stated("a", seed=1), stated("a", seed=2), stated("t", True, queries="all", seed=1)]
    out = fsbench("compare", "--store", save(tmp_path / "s", some), "--queries", "all").out
    (line,) = [line for line in out.splitlines() if line.startswith("  fsbench run")]
    assert "--method t" in line
    assert line.endswith("--queries all")


def test_the_library_filters_by_what_is_allowed(store: Path) -> None:
    results = fb.load(store)
    every = results.where(queries="all", views=64)
    assert len(every) == 2 * len(INDUCTIVE) + 3
    # Records are what they are; the table is of what it allows.
    assert {record.spec.queries for record in every} == {"alone", "all"}
    (table,) = every.compare().tables
    assert (table.conditions["queries"], table.conditions["views"]) == (("all",), ("64",))
    assert len(results.where(queries=["alone", "all"], views=1).compare().tables) == 2
    assert len(results.where(queries="alone", views=1)) == 2 * len(INDUCTIVE) + 1


def test_a_store_is_cleaned_by_the_conditions_of_cells_themselves(store: Path) -> None:
    shown = fsbench("store", "rm", "--store", store, "--queries", "all", "--dry-run")
    assert "2 " in shown.out, shown
    assert "method-00" not in shown.out


def test_lent_specs_keep_the_key_of_the_cell() -> None:
    spec = RunSpec("coop", "dtd", 1, 1, 1)
    lent = spec.lend(queries="all").lend(views=64)
    assert (lent.key(), lent.queries, lent.views) == (spec.key(), "all", 64)
    assert dataclasses.replace(lent).key() != spec.key()


def test_a_report_counts_a_record_of_several_blocks_once(tmp_path: Path) -> None:
    store = save(tmp_path / "s", [stated("a"), stated("t", True, queries="all")])
    text = read(tmp_path, store)
    assert "Conditions 2 of 2: queries all" in text
    assert "Written by fsbench report from 2 records." in text


def test_no_value_allows_another_one_but_less() -> None:
    for name, about in CONDITIONS.items():
        values = {about.default, OTHERS[name], *about.words, *([2, 16] if name == "views" else [])}
        for allowed, own in itertools.permutations(values, 2):
            less = own == about.default or (name == "views" and own < allowed)
            assert about.allows(allowed, own) == (name in LENT and less), (name, allowed, own)


def test_an_audit_takes_what_is_allowed_for_one_condition(store: Path) -> None:
    every = fsbench("audit", "--store", store, "--views", "1").out
    assert "different values of queries" in " ".join(every.split())
    found = json.loads(fsbench("audit", "--store", store, "--format", "json").out)["findings"]
    assert {one["level"] for one in found if one["kind"] in LENT} == {"note"}
    assert (
        "different values of queries"
        not in fsbench(*("audit", "--store", store, "--queries", "all", "--views", "64")).out
    )


def test_signatures_and_figures_know_what_is_allowed(store: Path, tmp_path: Path) -> None:
    allowed = ("--queries", "all", "--views", "64")
    line = "".join(fsbench("compare", "--store", store, *allowed).out.split())
    assert "|q:all|views:64|" in line
    picture = tmp_path / "shots.svg"
    several = fsbench("figure", "shots", "--store", store, "-O", picture)
    assert (several.code, "choose one, as with --queries alone" in several.err) == (2, True)
    assert fsbench("figure", "shots", "--store", store, "-O", picture, *allowed).code == 0


def test_texts_that_a_method_does_not_read_have_no_pooling_of_their_own(tmp_path: Path) -> None:
    probe = stated("linear-probe", text="none")
    read_by = stated("zs", texts="waffle", pooling="mean")
    store = save(tmp_path / "s", [probe, read_by, stated("zs")])
    shown = fsbench("compare", "--store", store, "--texts", "waffle").out
    assert "Conditions" not in shown
    assert "texts waffle; pooling mean; 2 records" in " ".join(shown.split())
    assert "left out" not in shown


def test_show_names_what_is_not_as_the_card_declares(tmp_path: Path) -> None:
    hidden = stated("hidden")
    hidden = dataclasses.replace(
        hidden, footprint={**hidden.footprint, "violations": [HIDDEN_VIEWS]}
    )
    store = save(tmp_path / "s", [hidden])

    shown = fsbench("show", next(store.glob("records/*/*.json")), "--store", store)

    assert f"violation  {HIDDEN_VIEWS}, against its card" in shown.out
