"""Who keeps a query company: groups that the harness hands over; cells hold what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fewshot_bench as fb
from fewshot_bench.api.record import Record
from fewshot_bench.engines.asking import ask
from fewshot_bench.runner.examiner import Examiner
from fewshot_bench.runner.need import tell_left_out
from fewshot_bench.runner.preflight import compute_needs
from fewshot_bench.runner.request import Plan, expand
from fewshot_bench.store.answer_files import load
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError

FILE = f"{Path(__file__).parents[1] / 'support' / 'plugin_company.py'}"
SHIFT, MEAN = f"{FILE}:MeanShift", f"{FILE}:RunningMean"
ONE: dict[str, Any] = {"shots": 1, "seeds": 1, "progress": False, "engine": "here"}


def run(store: Path, method: str, **asked: Any) -> Record:
    (record,) = fb.run(method, asked.pop("dataset", "digits"), store=store, **{**ONE, **asked})
    assert record.status == "done", record.error
    return record


def stored(store: Path, record: Record) -> Any:
    return load(Store(store).file(record.spec.key()).with_suffix(".npz"), record, kept=True)


def plan(*methods: str, **asked: Any) -> Plan:
    values = {"methods": methods, "datasets": ("digits",), "shots": (1,), "seeds": (1,)}
    return expand(ask({**values, "store": Path("nowhere"), **asked}))


@pytest.mark.parametrize("queries", ["all", "batch-64", "batch-64-k2-10"])
def test_a_method_gets_each_batch_by_itself(tmp_path: Path, queries: str) -> None:
    record = run(tmp_path, SHIFT, queries=queries, limit=200)
    assert record.spec.queries == queries
    answers = stored(tmp_path, record).answers
    groups = answers.groups
    assert groups.dtype == np.int32
    sizes = np.bincount(groups)
    split = record.split
    assert split["groups"] == len(sizes)
    assert split["group_sizes"][::2] == [min(sizes), max(sizes)]
    cell = fb.cell(SHIFT, "digits", 1, 1, queries=queries, limit=200)
    classifier: Any = cell.method.fit(*cell)
    features = cell.queries.features
    logits = torch.empty(len(features), 10)
    for group in cell.groups:
        rows = features[list(group)]
        rows = rows - rows.mean(0) + classifier.classes.mean(0)
        rows = torch.nn.functional.normalize(rows, dim=-1)
        logits[list(group)] = classifier.scale * rows @ classifier.classes.T
    predictions = logits.argmax(1)
    assert record.metrics["top1"] == pytest.approx(cell.accuracy(logits), abs=1)
    assert cell.logits(classifier).argmax(1).equal(predictions)
    if queries == "all":
        assert sizes.tolist() == [200]
    else:
        assert max(sizes) == 64
    if "k2" in queries:
        labels = [len(np.unique(answers.labels[groups == number])) for number in range(len(sizes))]
        assert split["group_classes"][2] == max(labels) <= 10


@pytest.mark.parametrize("queries", ["stream", "stream-g0.01", "stream-classes"])
def test_a_stream_is_answered_in_its_order(tmp_path: Path, queries: str) -> None:
    record = run(tmp_path, MEAN, queries=queries, limit=150)
    answers = stored(tmp_path, record).answers
    assert sorted(answers.groups) == list(range(150))
    assert record.split["group_sizes"] == [150] * 3
    order = np.argsort(answers.groups)
    changes = np.count_nonzero(np.diff(answers.labels[order]))
    assert changes == 9 if queries == "stream-classes" else changes > 9
    cell = fb.cell(MEAN, "digits", 1, 1, queries=queries, limit=150)
    classifier: Any = cell.method.fit(*cell)
    assert cell.accuracy(cell.logits(classifier)) == record.metrics["top1"]
    # Parts of any size give the same rows, and a prefix is that of the whole stream.
    (listed,) = cell.groups
    whole: Any = cell.queries
    stream = classifier.start()
    pieces = [stream.answer(whole.part(listed[at : at + 7])) for at in range(0, 49, 7)]
    expected = cell.logits(classifier)[list(listed[:49])]
    assert torch.allclose(torch.cat(pieces), expected, atol=1e-3)


def test_seeds_draw_other_batches_and_the_same_seed_the_same(tmp_path: Path) -> None:
    more = {"queries": "batch-64", "limit": 150}
    first = run(tmp_path / "a", SHIFT, **more)
    same = run(tmp_path / "b", SHIFT, **more)
    other = run(tmp_path / "a", SHIFT, seeds=2, **more)
    groups = [
        stored(tmp_path / s, r).answers.groups for s, r in (("a", first), ("b", same), ("a", other))
    ]
    assert (groups[0] == groups[1]).all()
    assert (groups[0] != groups[2]).any()
    assert first.logits_digest == same.logits_digest


def test_workers_give_the_same_as_this_process(tmp_path: Path) -> None:
    """Messages between processes hold groups, and answers come back in the order of the list."""
    more = {"queries": "batch-64-k2-10", "limit": 100}
    here = run(tmp_path / "here", SHIFT, **more)
    local = run(tmp_path / "local", SHIFT, engine="local", jobs=1, **more)
    assert here.logits_digest == local.logits_digest
    assert here.split == local.split
    asked = {"queries": "stream", "limit": 100}
    stream = run(tmp_path / "local", MEAN, engine="local", jobs=1, **asked)
    assert stream.logits_digest == run(tmp_path / "here", MEAN, **asked).logits_digest


def test_short_memory_changes_no_group(tmp_path: Path) -> None:
    method, more = f"{FILE}:PixelShift", {"queries": "batch-64", "limit": 100}
    whole = run(tmp_path, method, **more)
    short = run(tmp_path, method, options={"most": 40}, **more)
    assert "batches of 32 queries instead of 64" in short.incidents[0]["text"]
    found = [stored(tmp_path, record).answers for record in (whole, short)]
    assert (found[0].groups == found[1].groups).all()
    assert np.allclose(found[0].logits, found[1].logits, atol=0.05)
    assert short.split == whole.split


def test_outcomes_know_the_groups_with_and_without_their_cache(tmp_path: Path) -> None:
    record = run(tmp_path, SHIFT, queries="batch-64", limit=100)
    alone = run(tmp_path, "zero-shot", limit=100)
    expected = stored(tmp_path, record).answers.groups
    results = fb.load(tmp_path)
    assert (results.predictions(record).to_frame()["group"] == expected).all()
    assert "group" not in results.predictions(alone).to_frame()
    for _ in range(2):
        outcomes = Outcomes(Store(tmp_path))
        outcomes.prepare([record, alone])
        assert (outcomes.of(record).groups == expected).all()
        assert outcomes.of(alone).groups is None


def test_other_classes_and_data_sets_come_in_groups_too(tmp_path: Path) -> None:
    asked = {"queries": "batch-64", "limit": 70}
    new = run(tmp_path, SHIFT, classes="new", **asked)
    assert new.split["group_sizes"] == [6, 6, 64]
    (target,) = fb.run(
        SHIFT, "digits", classes="none", transfer="letters", store=tmp_path, **ONE, **asked
    )
    assert (target.spec.target, target.split["groups"]) == ("letters", 2)


def test_bystanders_are_asked_and_not_scored(tmp_path: Path) -> None:
    base = run(tmp_path, SHIFT, classes="base", queries="all", limit=60)
    mixed = run(tmp_path, SHIFT, classes="base", queries="all", limit=60, bystanders="new")
    assert (mixed.split["bystanders"], mixed.split["test"], mixed.metrics["n"]) == (60, 60, 60)
    assert mixed.split["group_sizes"] == [120] * 3
    assert mixed.split["group_classes"] == [10] * 3
    assert stored(tmp_path, mixed).ids == stored(tmp_path, base).ids
    assert base.logits_digest != mixed.logits_digest
    # A table has both for what it allows, and a second run finds the record whole.
    assert [mixed.split[n] for n in ("images", "test_images")] == [
        base.split[n] for n in ("images", "test_images")
    ]
    again = run(tmp_path, SHIFT, classes="base", queries="all", limit=60, bystanders="new")
    assert again.timings == mixed.timings
    stream = run(tmp_path, MEAN, classes="base", queries="stream", limit=60, bystanders="new")
    positions = stored(tmp_path, stream).answers.groups
    assert len(set(positions)) == 60
    assert positions.max() > 60
    asked: dict[str, Any] = {"classes": "base", "queries": "all", "bystanders": "new"}
    cell = fb.cell(SHIFT, "digits", 1, 1, limit=60, **asked)
    classifier: Any = cell.method.fit(*cell)
    assert cell.metrics(cell.logits(classifier))["n"] == 60


@pytest.mark.parametrize("asked", [{"classes": ("all",)}, {"classes": ("base", "new")}])
def test_bystanders_belong_to_the_base_half(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--classes base"):
        plan(SHIFT, queries="all", bystanders="new", **asked)


def test_bystanders_need_company() -> None:
    with pytest.raises(UsageError, match="each query is alone: add --queries all"):
        plan("zero-shot", bystanders="new", classes=("base",))


def test_a_cell_holds_what_its_method_needs() -> None:
    cells = plan("zero-shot", SHIFT, queries="all", views=64).cells
    assert {(c.method, c.queries, c.views) for c in cells} == {
        ("zero-shot", "alone", 1),
        ("mean-shift", "all", 1),
    }
    (alone,) = plan("zero-shot").cells
    assert alone.key() == cells[0].key()
    cells = plan("zero-shot", SHIFT, queries="all", bystanders="new", classes=("base",)).cells
    assert [cell.bystanders for cell in cells] == ["none", "new"]
    (views,) = plan(f"{FILE}:ManyViews", views=64, queries="all").cells
    assert (views.views, views.queries) == (8, "alone")


def test_views_of_queries_are_among_what_a_run_needs() -> None:
    needs = []
    for views in (1, 8):
        asked = plan(f"{FILE}:{'ManyViews' if views > 1 else 'MeanShift'}", queries="all", views=8)
        needs.append(compute_needs(asked.cells, asked.datasets))
    before, after = (need.rows["views"] for need in needs)
    assert after - before == 7 * needs[0].rows["test images"]


def test_a_pattern_leaves_out_what_the_run_does_not_allow() -> None:
    left = plan("all")
    assert {"transclip", "stata"} <= set(left.lacking)
    assert not {"transclip", "stata"} & {cell.method for cell in left.cells}
    (line,) = [text for text in tell_left_out(left.lacking) if "transclip" in text]
    assert "stata" in line
    assert line.endswith(
        "each uses the other queries of a batch, and --queries is alone: add --queries all"
    )
    with pytest.raises(UsageError, match="'transclip' uses the other queries"):
        plan("all", "transclip")


@pytest.mark.parametrize(
    ("method", "asked", "expected"),
    [
        (SHIFT, {}, "'mean-shift' uses the other queries of a batch, and --queries is alone"),
        (SHIFT, {"queries": "stream"}, "--queries is stream: add --queries all"),
        (MEAN, {"queries": "all"}, "--queries is all: add --queries stream"),
        (f"{FILE}:ManyViews", {}, "8 views of a query, and --views is 1: add --views 8"),
        ("zero-shot", {"queries": "batches"}, "unknown queries 'batches'"),
        ("zero-shot", {"views": 0}, "views 0"),
    ],
)
def test_more_than_the_run_allows_is_an_error_before_training(
    method: str, asked: dict[str, Any], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        plan(method, **asked)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NoStream", "Shifted without start(); return a Streaming"),
        ("EmptyStream", "start() returned NoneType without answer(); return a Stream"),
    ],
)
def test_a_classifier_without_a_stream_fails_its_cell(
    tmp_path: Path, name: str, expected: str
) -> None:
    (record,) = fb.run(f"{FILE}:{name}", "digits", store=tmp_path, queries="stream", **ONE)
    assert (record.status, record.error["type"]) == ("failed", "ContractError")
    assert expected in record.error["message"]


def test_groups_are_numbers_that_say_nothing_of_places_in_the_list(tmp_path: Path) -> None:
    (cell,) = plan(SHIFT, queries="batch-64", limit=100).cells
    drawn = [Examiner(tmp_path).cell(cell).groups for _ in range(2)]
    # Numbers differ, since queries are shuffled by a secret of the process.
    assert drawn[0] != drawn[1]
    assert list(map(len, drawn[0])) == list(map(len, drawn[1])) == [64, 36]
