"""Images that were answered together are one draw: tests count batches, streams and whole sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.analysis.statistics.effects import (
    ANEW,
    BATCH,
    IMAGE,
    SET,
    coarser,
    gather,
    spread,
    units_of,
)
from fewshot_bench.analysis.statistics.paired import compare_spreads
from fewshot_bench.analysis.statistics.power import detectable
from fewshot_bench.analysis.statistics.variance import sampling_variance
from fewshot_bench.api.metrics import Answers, rounded
from fewshot_bench.api.record import Record
from fewshot_bench.store.store import Store
from tests.support.compare_records import stated
from tests.support.helpers import fsbench

IMAGES, CLASSES = 240, 4
LABELS = np.arange(IMAGES) % CLASSES
BATCHES = np.arange(IMAGES) // 24


def drawn(*names: object) -> np.random.Generator:
    return np.random.default_rng(list(":".join(map(str, names)).encode()))


def test_of_two_groupings_the_coarser_counts_and_of_unlike_ones_the_whole_set() -> None:
    fine, coarse = units_of(BATCHES), units_of(BATCHES // 2)
    other = units_of(np.arange(IMAGES) % 10)
    assert coarser(None, None) is None
    for first, second, expected in (
        (None, fine, fine),
        (fine, coarse, coarse),
        (coarse, fine, coarse),
        (fine, other, np.zeros(IMAGES)),
    ):
        assert (coarser(first, second) == expected).all()
    # Numbers do not matter, nor their order.
    assert (units_of(9 - BATCHES) == fine).all()


def test_a_batch_is_one_draw_and_the_mean_is_unchanged() -> None:
    # All images of a batch win or lose together: as if there were only ten of them.
    won = drawn("batch").normal(0.0, 1.0, 10)[BATCHES]
    zero = [np.zeros(IMAGES)]
    by_image, by_batch = spread([won], zero), spread([won], zero, units=[units_of(BATCHES)])
    ten = spread([won[::24]], [np.zeros(10)])
    assert (by_image.unit, by_batch.unit, by_batch.images) == (IMAGE, BATCH, 10)
    assert (
        by_batch.difference == pytest.approx(by_image.difference) == pytest.approx(ten.difference)
    )
    assert by_batch.image_part == pytest.approx(ten.image_part)
    few, many = (compare_spreads({"dtd": each}) for each in (by_batch, by_image))
    assert few.freedom == pytest.approx(9)
    assert few.error > 4 * many.error


def test_batches_of_unequal_size_are_clusters() -> None:
    sizes = np.repeat(np.arange(5), [2, 10, 3, 20, 5])
    values = drawn("sizes").normal(0.3, 1.0, (2, 40))
    gathered, unit = gather(values, [units_of(sizes)] * 2)
    assert (gathered.shape, unit) == ((2, 5), BATCH)
    assert gathered.mean(axis=1) == pytest.approx(values.mean(axis=1))
    # The variance of the mean is the sum of squared deviations of clusters.
    deviations = [values[0, sizes == k] - values[0].mean() for k in range(5)]
    expected = 5 / 4 * sum(d.sum() ** 2 for d in deviations) / 40**2
    own, _ = gather(values[:1], [units_of(sizes)])
    assert own.var(ddof=1) / 5 == pytest.approx(expected)


def test_batches_drawn_anew_for_every_seed_are_part_of_the_seeds() -> None:
    values = drawn("anew").normal(0.0, 1.0, (3, IMAGES))
    anew = [units_of(drawn("order", seed).permutation(BATCHES)) for seed in range(3)]
    gathered, unit = gather(values, anew)
    assert unit == ANEW
    assert gathered is values
    assert gather(values, [units_of(BATCHES)] * 3)[1] == BATCH


def test_the_level_with_batches_drawn_anew() -> None:
    rejected = 0
    for number in range(400):
        rng = drawn("anew level", number)
        hard = rng.normal(0, 1, IMAGES)
        orders = [rng.permutation(BATCHES) for _ in range(3)]
        runs = [hard + rng.normal(0, 1, 10)[own] + rng.normal(0, 1, IMAGES) for own in orders]
        units = list(map(units_of, orders))
        zero = [np.zeros(IMAGES)] * 3
        rejected += compare_spreads({"dtd": spread(runs, zero, units=units)}).p < 0.05
    assert 0.02 < rejected / 400 < 0.085


@pytest.mark.parametrize("shared", [False, True])
def test_the_level_of_a_test_over_batches(shared: bool) -> None:
    """True nulls are rejected about one time in twenty, and far more often over images."""
    rejected = np.zeros(2)
    units = units_of(BATCHES)
    for number in range(400):
        rng = drawn("level", shared, number)
        batch = rng.normal(0, 1, 10)[BATCHES] if shared else 0.0
        ours = [batch + rng.normal(0, 1, IMAGES)]
        for index, own in enumerate(([units], [None])):
            result = compare_spreads({"dtd": spread(ours, [np.zeros(IMAGES)], units=own)})
            rejected[index] += result.p < 0.05
    over_batches, over_images = rejected / 400
    assert 0.02 < over_batches < 0.085
    assert over_images > 0.4 if shared else over_images < 0.085


def test_a_whole_set_leaves_seeds_and_data_sets() -> None:
    whole = units_of(np.zeros(IMAGES))
    values = drawn("whole").normal(0.2, 1.0, (3, IMAGES))
    zero = list(np.zeros_like(values))
    one = spread(values[:1], zero[:1], units=[whole])
    single = compare_spreads({"dtd": one})
    assert (one.unit, single.tested, single.p, single.bounded) == (SET, False, 1.0, False)
    assert single.conditional
    three = compare_spreads({"dtd": spread(values, zero, units=[whole] * 3)})
    means = 100 * values.mean(axis=1)
    assert three.tested
    assert three.error == pytest.approx(np.sqrt(means.var(ddof=1) / 3))
    assert three.freedom == pytest.approx(2)
    assert detectable(three.spreads) > 0
    assert sampling_variance(list(values), [whole] * 3) is None


def answered(
    method: str, dataset: str, seed: int, queries: str, groups: Any
) -> tuple[Record, Answers]:
    """A finished record with its answers, right the more often the longer its name."""
    logits = drawn("images", dataset).normal(0, 1, (IMAGES, CLASSES))
    logits += drawn(method, dataset, seed).normal(0, 0.5, (IMAGES, CLASSES))
    logits[np.arange(IMAGES), LABELS] += 0.2 * len(method)
    given = None if groups is None else np.asarray(groups, np.int32)
    answers = Answers.of(logits.astype(np.float32), LABELS.astype(np.int64), given)
    record = stated(method, queries != "alone", dataset=dataset, seed=seed, queries=queries)
    return dataclasses.replace(record, metrics=rounded(answers)), answers


def filled(folder: Path, queries: str, groups: Any, seeds: tuple[int, ...]) -> Path:
    store = Store(folder)
    store.create()
    for dataset in ("dtd", "pets"):
        for seed in seeds:
            for method, own, given in (("zs", "alone", None), ("together", queries, groups)):
                record, answers = answered(method, dataset, seed, own, given)
                store.write(record, answers, [f"{n}.jpg" for n in range(IMAGES)])
    return folder


def words(store: Path, queries: str, *more: str) -> str:
    shown = fsbench(*("compare", "--store", store, "--baseline", "zs", "--queries", queries, *more))
    assert shown.code == 0, shown.err
    return " ".join(shown.out.split())


def test_tables_say_what_their_tests_count(tmp_path: Path) -> None:
    batch = filled(tmp_path / "b", "batch-64", BATCHES, (1,))
    text = words(batch, "batch-64")
    assert "* p < 0.05, paired over batches of test images too, after Holm's" in text
    assert "tests of together count batches, not images" in text
    whole = filled(tmp_path / "a", "all", np.zeros(IMAGES), (1, 2, 3))
    text = words(whole, "all")
    assert "* p < 0.05, paired over seeds, after Holm's correction" in text
    assert "tests of together are over seeds and data sets alone" in text
    single = filled(tmp_path / "s", "stream", drawn("order").permutation(IMAGES), (1,))
    assert "without a difference between seeds, there is no p-value" in words(single, "stream")
    rows = json.loads(
        fsbench(
            *("compare", "--store", single, "--baseline", "zs"),
            *("--queries", "stream", "--format", "json"),
        ).out
    )["rows"]
    tests = [row["test_p"] for row in rows if row["method"] == "together"]
    assert tests == [None] * len(tests)
    assert tests


@pytest.mark.parametrize("queries", ["all", "batch-64"])
def test_a_difference_has_the_interval_and_the_star_of_its_test(
    tmp_path: Path, queries: str
) -> None:
    groups = np.zeros(IMAGES) if queries == "all" else BATCHES
    store = filled(tmp_path / "s", queries, groups, (1, 2, 3))
    options = ("compare", "--store", store, "--baseline", "zs", "--queries", queries)
    found = json.loads(fsbench(*options, "--format", "json").out)
    rows = [row for row in found["rows"] if row["method"] == "together"]
    assert {row["dataset"] for row in rows} == {"dtd", "pets", "average"}
    shown = fsbench(*options).out.partition("differences")[2]
    for row in rows:
        half = (row["test_high"] - row["test_low"]) / 2
        assert row["delta_ci95"] == pytest.approx(half, abs=2e-6)
        assert (row["test_p"] < 0.05) == (abs(row["delta_mean"]) > half)
    (average,) = [row for row in rows if row["dataset"] == "average"]
    assert f"±{average['delta_ci95']:.2f}" in shown
    (standing,) = found["meta"]["standings"]
    assert standing["p"] == pytest.approx(average["test_p"])
    if queries == "all":
        ratio = stats.t.isf(standing["p"] / 2, 2) / stats.t.isf(0.025, 2)
        assert abs(average["delta_mean"]) / average["delta_ci95"] == pytest.approx(ratio, rel=1e-4)


def test_a_stream_has_an_accuracy_of_its_ends(tmp_path: Path) -> None:
    order = drawn("order").permutation(IMAGES)
    store = filled(tmp_path / "s", "stream", order, (1,))
    record, answers = answered("together", "dtd", 1, "stream", order)
    hits = answers.hits[np.argsort(order)]
    first, last = (100 * hits[part].mean() for part in (slice(60), slice(180, None)))
    assert record.metrics["first_quarter"] == pytest.approx(first)
    assert record.metrics["last_quarter"] == pytest.approx(last)
    text = words(store, "stream", "--columns", "first_quarter,last_quarter", "--layout", "full")
    assert f"{first:.2f}" in text
    # Metrics that are computed for a table do not make it forget what it was lent.
    assert "run with queries alone, and counted here as verified to need no more: zs" in text
    assert f"{last:.2f}" in text
    shown = fsbench("show", Store(store).file(record.spec.key()))
    assert f"stream     first 1/4 {first:.2f} %, last 1/4 {last:.2f} %" in shown.out, shown
    assert fsbench("store", "verify", "--store", store).code == 0
    # Of queries that were answered alone there is none.
    plain, _ = answered("zs", "dtd", 1, "alone", None)
    assert "first_quarter" not in plain.metrics
