"""Predictions in a report: equal to those of `compare`, and unusable ones are reported."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.report.headline import headline
from fewshot_bench.plugins.report.pairs import Pair, compare
from fewshot_bench.plugins.report.predictions import Predictions
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers, stored_arrays
from tests.support.compare_records import CROSSED, fill_crossed
from tests.support.helpers import fsbench
from tests.support.report_pages import (
    IDS,
    LABELS,
    Page,
    answers,
    read,
    record,
    store_of,
    without_figures,
)
from tests.support.synthetic_store import fill


def logits_of(store: Path, record: Record) -> Path:
    """The file of a record's logits."""
    return Store(store).file(record.spec.key()).with_suffix(".npz")


def one_of(store: Path, method: str, seed: int = 1, dataset: str = "dtd") -> Record:
    """A finished record at the headline's shots."""
    return next(
        r
        for r in Store(store).records()
        if (r.spec.method, r.spec.split_seed, r.spec.dataset, r.spec.shots)
        == (method, seed, dataset, 16)
    )


def remade(store: Path, old: Record, **split: object) -> None:
    """Rewrite a record with changed split facts."""
    opened = Store(store)
    arrays = stored_arrays(opened, old.spec.key())
    new = dataclasses.replace(old, split={**old.split, **split})
    put_answers(opened, new, arrays["logits"], arrays["labels"], arrays["ids"])


def assert_pairs_are_those_of_compare(store: Path, metric: str) -> list[Pair]:
    """Assert that a report's pairs equal `compare`'s tests before correction; return them."""
    outcomes = Outcomes(Store(store))
    records = list(outcomes.store.records())
    chosen = headline(build(records, Options(metric)))
    predictions = Predictions(outcomes, [r for r in records if r.status == "done"])
    pairs = compare(chosen, predictions.of)
    assert not pairs.reasons
    for ours, theirs in itertools.permutations(chosen.ranked, 2):
        options = Options(metric, baseline=theirs.row.label)
        significance = build(records, options, answers=predictions.of).significance
        assert significance is not None
        standing = next(s for s in significance.standings if s.overall.row == ours.row.label)
        result = standing.overall.result
        pair = pairs.of(ours, theirs)
        assert pair is not None
        assert (pair.raw, pair.conditional) == (result.p, result.conditional)
        assert (pair.difference, pair.low, pair.high) == pytest.approx(
            (result.difference, result.low, result.high), abs=1e-12
        )
    return list(pairs.by_labels.values())


@pytest.mark.parametrize("metric", ["top1", "macro_accuracy"])
def test_pairs_are_those_of_compare_before_the_correction(tmp_path: Path, metric: str) -> None:
    store = tmp_path / "s"
    fill(store, datasets=2, methods=3, shots=(16,), queries=60, classes=6)
    made = {name: one_of(store, name, 2, "caltech101") for name in ("tip-adapter", "clip-adapter")}
    remade(store, made["tip-adapter"], digest="")
    logits_of(store, made["clip-adapter"]).unlink()
    assert len(assert_pairs_are_those_of_compare(store, metric)) == 3


def test_pairs_of_crossed_seeds_are_those_of_compare(tmp_path: Path) -> None:
    fill_crossed(tmp_path / "s", CROSSED)
    (pair,) = assert_pairs_are_those_of_compare(tmp_path / "s", "top1")
    assert not pair.conditional


def test_methods_without_a_common_split_are_not_compared(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    for seed in (1, 2, 3):
        remade(store, one_of(store, "coop", seed), digest="")
    text = read(tmp_path, store)
    reason = "no common seed with identical splits and logits on dtd"
    assert f"Whether its lead is significant cannot be told: {reason}" in text


def test_logits_that_went_away_since_they_were_read_change_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    first = read(tmp_path, store)
    logits_of(store, one_of(store, "coop")).unlink()
    assert read(tmp_path, store) == first, "predictions are those that were verified before"


@pytest.mark.parametrize(("damaged", "read_before"), [(False, True), (True, False)])
def test_logits_that_cannot_be_used_are_named_and_stay_where_they_are(
    tmp_path: Path, damaged: bool, read_before: bool
) -> None:
    store = store_of(tmp_path / "s", {"coop": 0.5, "maple": 0.8})
    if read_before:
        read(tmp_path, store)
    path = logits_of(store, one_of(store, "coop"))
    if damaged:
        path.write_bytes(b"no archive")
    else:
        path.write_bytes(logits_of(store, one_of(store, "coop", 2)).read_bytes())
    before = path.read_bytes()
    # The second time, what was read the first time is known.
    for _ in range(2):
        with without_figures():
            done = fsbench("report", "--store", store, "-O", tmp_path / "page.html")
        said = "BadZipFile" if damaged else "they are not those of the record"
        assert (done.code, f"not used: {path}: {said}" in done.err) == (0, True), done.err
        text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
        assert f"coop on dtd, 16-shot, seed 1: its logits cannot be used: {said}" in text
    assert path.read_bytes() == before


def test_calibration_is_that_of_the_record_where_it_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.create()
    for method, right in (("coop", 40), ("maple", 60)):
        made = record(method, "dtd", 16, 1, right)
        made = dataclasses.replace(made, metrics={**made.metrics, "ece": float(right)})
        put_answers(store, made, answers(right), LABELS, IDS)
    text = read(tmp_path, store.path)
    assert "184.3 k 2.00 s 101 MB 60.0" in text
    assert "184.3 k 2.00 s 101 MB 40.0" in text


def test_one_test_image_is_compared_with_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.create()
    for method, right in (("coop", 0), ("maple", 1)):
        logits = np.eye(4, dtype=np.float32)[[1 - right]]
        put_answers(store, record(method, "dtd", 16, 1, 80 * right), logits, LABELS[:1], IDS[:1])
    text = read(tmp_path, store.path)
    assert "cannot be told: one test image says nothing about others on dtd" in text
