"""`fsbench reproduce` of queries in company, of views and of other texts: what may be compared."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.cells import Cell, Wanted, cells, plan
from fewshot_bench.plugins.reproduce.numbers import all_numbers, numbers, reasons
from fewshot_bench.plugins.reproduce.published import reproduction, reproductions
from tests.support.compare_records import save
from tests.support.helpers import fsbench
from tests.support.reproduced import record


def of(cell: Cell, top1: float, seed: int = 1, **conditions: Any) -> Record:
    """A record of a cell's method and data set under these conditions alone."""
    assert cell.variant is not None
    made = record("dtd", seed, top1)
    counts = registry().dataset(cell.number.dataset).card().expected_counts
    spec = dataclasses.replace(
        made.spec,
        method=cell.variant.method,
        options=cell.variant.options,
        method_version=cell.variant.version,
        **{"dataset": cell.number.dataset, "shots": cell.run[1], "revision": "", **conditions},
        protocol=cell.setting.protocol,
        val=cell.val,
        prompts=cell.prompts,
    )
    return dataclasses.replace(made, spec=spec, metrics={**made.metrics, "n": counts["test"]})


def rows(table: str, method: str, dataset: str, store: Path) -> Iterator[dict[str, str]]:
    call = (table, "-m", method, "-d", dataset, "--only-existing", "--store", store)
    text = fsbench("reproduce", *call, "--format", "csv").out
    return csv.DictReader(text.splitlines())


@pytest.fixture(autouse=True)
def count_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Identify test images by their number, not by the digest of the lists."""
    monkeypatch.setattr("fewshot_bench.plugins.reproduce.matching.published_splits", dict)


def test_a_row_is_compared_with_runs_of_its_conditions_alone(tmp_path: Path) -> None:
    chosen = cells(reproduction("transclip-vit-b-16"), Wanted(methods=("transclip",)))
    (cell,) = (each for each in chosen if each.number.dataset == "dtd")
    assert cell.number.conditions["queries"] == "all"
    records = [of(cell, 40.0, queries=word) for word in ("batch-64", "batch-64-k2-10")]
    store = save(tmp_path / "store", records)
    (row,) = rows("transclip-vit-b-16", "transclip", "dtd", store)
    assert (row["ours"], row["verdict"]) == ("", "missing")
    call = ("transclip-vit-b-16", "-m", "transclip", "--only-existing", "--full", "--store")
    shown = fsbench("reproduce", *call, store).out
    assert "not used: 1 record of these cells with queries batch-64-k2-10" in " ".join(
        shown.split()
    )
    store = save(tmp_path / "more", [*records, of(cell, 50.0, queries="all")])
    (row,) = rows("transclip-vit-b-16", "transclip", "dtd", store)
    assert (row["ours"], row["paper"], row["verdict"]) == ("50.0", "50.0", "agrees")


def test_a_row_that_may_not_be_compared_says_why(tmp_path: Path) -> None:
    chosen = cells(reproduction("stata-batches"), Wanted(methods=("transclip",)))
    (cell, *_) = (c for c in chosen if c.number.queries == "all" and c.number.dataset == "dtd")
    store = save(tmp_path / "store", [of(cell, 50.0, queries="all")])
    row, mean = (
        row
        for row in rows("stata-batches", "transclip", "dtd", store)
        if row["method"] == "transclip [queries all]"
    )
    assert (row["ours"], row["difference"], row["verdict"]) == ("50.0", "", "not comparable")
    assert mean["verdict"] == "not comparable"
    call = ("stata-batches", "-m", "transclip", "--only-existing", "--full", "--store", store)
    shown = " ".join(fsbench("reproduce", *call).out.split())
    assert "not comparable because its copy of TransCLIP starts at the texts" in shown
    assert "transclip of stata" in shown


def test_a_file_of_texts_is_known_by_its_name_and_its_pooling(tmp_path: Path) -> None:
    (cell, *_) = (
        c for c in cells(reproduction("cupl-rn50"), Wanted()) if c.number.dataset == "dtd"
    )
    made = {"backbone": "RN50/openai", "precision": "fp32"}
    others = [
        of(cell, 10.0, texts="vdt.json@sha256:0123456789abcdef", **made),
        of(cell, 20.0, texts="cupl.json@sha256:0123456789abcdef", pooling="mean", **made),
        of(cell, 30.0, **made),
    ]
    store = save(tmp_path / "store", others)
    assert {row["ours"] for row in rows("cupl-rn50", "zero-shot", "dtd", store)} == {""}
    store = save(
        tmp_path / "more",
        [*others, of(cell, 48.0, texts="cupl.json@sha256:0123456789abcdef", **made)],
    )
    first, *_ = rows("cupl-rn50", "zero-shot", "dtd", store)
    assert (first["ours"], first["paper"]) == ("48.0", "48.64")


def test_a_plan_holds_the_conditions_of_its_rows_and_nothing_that_no_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, wanted = reproduction("stata-batches"), Wanted(datasets=("dtd",))
    chosen = [c for c in cells(table, wanted) if c.number.method in ("transclip", "zero-shot")]
    monkeypatch.setattr(
        "fewshot_bench.plugins.reproduce.cells.expand",
        lambda request: pytest.fail("unknown") if request.queries == "batch-64-k1-4" else planned(),
    )
    asked: list[Any] = []

    def planned() -> Any:
        from fewshot_bench.runner.request import Plan

        asked.append(1)
        return Plan([], {}, {})

    plan(chosen, wanted, "tiny", "cpu", tmp_path)
    # Of TransCLIP's seven rows a run has `all` and batches of 64 of two to ten classes.
    assert len(asked) == 3


def test_rows_that_no_run_of_their_method_has_are_not_planned() -> None:
    table, wanted = reproduction("stata-streams"), Wanted(datasets=("dtd",))
    chosen = cells(table, wanted)
    offered = {(cell.number.method, cell.number.queries) for cell in chosen if cell.is_offered}
    # StatA had batches within a stream there, and two of the orders are no conditions here.
    assert offered == {("tda", "stream-g0.01"), ("tda", "stream-classes")}


def test_what_is_left_out_says_why_where_it_is_asked_for() -> None:
    for name, reason in reasons()["left_out"].items():
        told = fsbench("reproduce", "stata-batches", "-m", name, "--dry-run")
        assert (told.code, f"{name} is left out: {reason}" in told.err) == (2, True)
    shown = " ".join(fsbench("printed", "-m", "calip", "--sources", 1).out.split())
    assert "calip is left out: its weights are the best of 200 x 200" in shown
    assert "not comparable because" in shown
    assert "cafo is left out" in fsbench("printed", "-m", "cafo").err


def test_every_reason_is_used_and_every_word_is_known() -> None:
    words = {word for number in all_numbers() for word in number.incomparable}
    assert words == set(reasons()["incomparable"])


def test_rows_of_other_conditions_are_other_settings() -> None:
    found = numbers(method="transclip", dataset="average", backbone="ViT-B-16")
    assert len({number.row for number in found}) == len(found) == 7
    listed = fsbench("printed", "-m", "transclip", "-d", "average", "--sources", 1).out
    assert listed.count("transclip  ViT-B-16, average, 0-shot, queries") == 7


def test_means_over_ten_sets_stand_for_these() -> None:
    table = reproductions()["zero-ensemble"]
    own = [number for number in table.numbers() if number.is_mean]
    assert [(number.printed, len(number.sets)) for number in own] == [("65.52", 10)]
    assert "imagenet" not in own[0].sets


def test_rows_are_chosen_by_their_conditions() -> None:
    table = reproduction("stata-batches")
    named = cells(table, Wanted(methods=("stata [queries all]",)))
    chosen = cells(table, Wanted(where=("queries=all",)))
    assert {cell.number.queries for cell in (*named, *chosen)} == {"all"}
    assert {cell.number.method for cell in chosen} >= {"transclip", "stata", "zlap"}


def test_a_recipe_says_how_precision_moves_a_row(tmp_path: Path) -> None:
    call = ("-m", "zero", "--only-existing", "--full", "--store", tmp_path / "s")
    told = " ".join(fsbench("reproduce", "zero-ensemble", *call).out.split())
    assert "ties practically never occur; with 1,000 classes, 11 of 300 answers differ" in told
