"""Predictions of cells, from their logits or from the store's cache."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from fewshot_bench.api.metrics import METRICS, Metric, measured, rounded
from fewshot_bench.api.record import Record
from fewshot_bench.store.answer_files import read
from fewshot_bench.store.index import index_file
from fewshot_bench.store.predictions import Outcomes
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.support.answers import answers_of, put_answers, stored_arrays
from tests.support.helpers import fsbench
from tests.support.store_cases import filled, put, put_failed
from tests.support.synthetic_store import fill

KEPT = frozenset({"top1", "macro_accuracy"})


def kept(store: Store) -> set[str]:
    """Keys of the cells whose outcomes are in the index."""
    if not index_file(store.path).exists():
        return set()
    with closing(sqlite3.connect(index_file(store.path))) as connection:
        return {key for (key,) in connection.execute("select key from outcomes")}


def forget(store: Store) -> None:
    index_file(store.path).unlink(missing_ok=True)


def done(store: Store) -> list[Record]:
    return [record for record in store.records() if record.status == "done"]


def drop_metrics(store: Store) -> None:
    """Rewrite records with no metrics except the accuracies."""
    drop = METRICS.keys() - KEPT
    for record in done(store):
        metrics = {name: value for name, value in record.metrics.items() if name not in drop}
        bare = dataclasses.replace(record, metrics=metrics)
        store.put(bare, read(store.file(record.spec.key()).with_suffix(".npz"))[0])


def check(store: Store, outcomes: Outcomes) -> None:
    """Assert that outcomes equal those computed here from the logits."""
    for record in done(store):
        arrays, found = stored_arrays(store, record.spec.key()), outcomes.of(record)
        logits, labels = arrays["logits"], arrays["labels"]
        assert found.ids == tuple(arrays["ids"].tolist())
        assert (found.labels == labels).all()
        assert (found.predictions == logits.argmax(1)).all()
        assert found.hits.dtype == bool
        assert (found.hits == (logits.argmax(1) == labels)).all()
        assert found.classes == logits.shape[1]
        answers = store.answers(record.spec.key()).answers
        assert dict(found.metrics) == rounded(answers)
        again = measured(answers_of(logits, labels))
        assert dict(found.metrics) == pytest.approx(again, rel=1e-3, abs=1e-2)


def test_the_same_from_the_logits_and_from_what_is_kept(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 2, 2, (1, 4), (1, 2), queries=60, classes=7, failed=1)
    check(store, Outcomes(store))
    assert not kept(store)
    Outcomes(store).prepare(store.records())
    assert len(kept(store)) == 15
    check(store, Outcomes(store))
    queries = {Outcomes(store).of(r).queries.digest for r in done(store)}
    assert len(queries) == 2
    for record in done(store):
        store.file(record.spec.key()).with_suffix(".npz").unlink()
    assert len([Outcomes(store).of(record).hits for record in done(store)]) == 15


def test_no_bit_of_what_is_kept_can_change_an_outcome(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    Outcomes(store).prepare(store.records())
    index = index_file(store.path)
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    whole, draw = index.read_bytes(), random.Random(1)
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        forget(store)
        index.write_bytes(data)
        check(store, Outcomes(store))


def test_other_logits_have_another_outcome(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1, 2])
    Outcomes(store).prepare(store.records())
    put(store, 2, shift=50.0)
    outcomes = Outcomes(store)
    check(store, outcomes)
    outcomes.prepare(store.records())
    check(store, Outcomes(store))


def test_metrics_of_several_plug_ins_are_kept(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (record,) = store.records()
    metrics = [Metric(n, n, lambda hits: hits.mean(), unit="", source="p") for n in ("a", "b")]
    for metric in metrics:
        (whole,) = Outcomes(store, [metric]).complete([record], [metric.name])
        assert whole.metrics[metric.name] == pytest.approx(record.metrics["top1"] / 100, abs=1e-6)
    store.file(record.spec.key()).with_suffix(".npz").unlink()
    (whole,) = Outcomes(store, metrics).complete([record], ["a", "b"])
    assert {"a", "b"} <= whole.metrics.keys()


def test_logits_that_cannot_be_used(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1, 2, 3])
    put_failed(store, 4)
    absent, broken, other = (store.file(r.spec.key()).with_suffix(".npz") for r in done(store))
    other.write_bytes(broken.read_bytes())
    absent.unlink()
    broken.write_bytes(b"PK")
    outcomes = Outcomes(store)
    outcomes.prepare(store.records())
    assert {damage.path for damage in outcomes.damaged} == {broken, other}
    for record, text in zip(done(store), ("no answers", "cannot be used", "another"), strict=True):
        with pytest.raises(StoreError, match=text):
            outcomes.of(record)
    assert len(outcomes.damaged) == 2
    assert broken.read_bytes() == b"PK"
    assert not kept(store)


def test_metrics_that_a_record_lacks_are_completed(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 1, 2, (1,), (1, 2), queries=40, classes=5)
    before = {record.spec.key(): record.metrics for record in store.records()}
    drop_metrics(store)
    records = list(store.records())
    assert Outcomes(store).complete(records, KEPT) == records
    assert not kept(store)
    for _ in range(2):
        found = Outcomes(store).complete(records, ["ece"])
        assert {r.spec.key(): r.metrics for r in found} == before
        assert kept(store)
    first = store.file(records[0].spec.key()).with_suffix(".npz")
    forget(store)
    first.unlink()
    assert "ece" not in Outcomes(store).complete(records, ["ece"])[0].metrics


def test_entries_without_metrics_do_not_stand_for_records_that_lack_them(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 1, 1, (1,), (1,), queries=40, classes=5)
    Outcomes(store).prepare(store.records())
    (record,) = store.records()
    older = dataclasses.replace(record, metrics={"top1": record.metrics["top1"]})
    assert Outcomes(store).of(older).metrics == record.metrics


def test_compare_completes_what_is_shown_and_names_damage(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 1, 2, (1,), (1, 2), queries=40, classes=5)
    drop_metrics(store)
    names = ("compare", "--store", store.path, "--metric", "ece")
    first, again = fsbench(*names), fsbench(*names)
    assert (first.code, first.out) == (0, again.out)
    assert "n = 2 seeds" in first.out
    broken = store.file(next(iter(store.records())).spec.key()).with_suffix(".npz")
    broken.write_bytes(b"")
    forget(store)
    damaged = fsbench(*names)
    assert f"not used: {broken}" in damaged.err
    assert "n=1" in damaged.out
    assert broken.read_bytes() == b""


def test_arrays_are_those_of_the_logits_for_any_order_of_queries(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (record,) = store.records()
    arrays = stored_arrays(store, record.spec.key())
    order = np.arange(len(arrays["ids"]))[::-1]
    turned = dataclasses.replace(record.spec, split_seed=7)
    put_answers(
        store,
        dataclasses.replace(record, spec=turned),
        *(arrays[name][order] for name in ("logits", "labels", "ids")),
    )
    one, other = (Outcomes(store).of(found).queries.digest for found in store.records())
    assert one != other


def test_a_run_keeps_the_outcomes_of_its_cells(tmp_path: Path) -> None:
    words = ("run", "-m", "zero-shot,tip-adapter", "-d", "digits", "--shots", 1, "--limit", 20)
    assert fsbench(*words, "--jobs", 1, "--store", tmp_path / "s").code == 0
    store = Store(tmp_path / "s")
    assert kept(store) == {record.spec.key() for record in done(store)}
    assert len(kept(store)) >= 2
    check(store, Outcomes(store))
