"""Statistics behind `fsbench adapt`: choice, interval, temperature, threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewshot_bench.images.copies import Copies
from fewshot_bench.plugins.models import estimates, search
from fewshot_bench.plugins.models.estimates import Units
from fewshot_bench.plugins.models.learned import Learned
from fewshot_bench.plugins.models.material import repeat_folds, with_validation
from fewshot_bench.runner.variants import Variant
from tests.reference import out_of_fold


def even(count: int) -> Any:
    """Equal weights of this many pictures."""
    return np.full(count, 1 / count)


def test_ties_go_to_the_cheaper_tier() -> None:
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.7).astype(float)
    flipped = right.copy()
    flipped[np.flatnonzero(right == 0)[0]] = 1
    assert estimates.best_of([right, flipped], [0, 1], even(200)) == 0
    assert estimates.best_of([right, flipped], [0, 0], even(200)) == 1
    assert estimates.best_of([right, right.copy()], [0, 0], even(200)) == 0
    better = np.maximum(right, rng.random(200) < 0.5)
    assert estimates.best_of([right, better], [0, 1], even(200)) == 1


def test_of_methods_that_are_as_often_right_the_surer_one_is_chosen() -> None:
    labels = np.array([0, 1, 2] * 8)
    right = np.zeros((2, 24, 3), np.float32)
    right[:, np.arange(24), labels] = 3
    wrong = labels[:6]
    # Both are wrong on the same images, one by small and the other by large margins.
    close, far = right.copy(), right.copy()
    close[:, np.arange(6), (wrong + 1) % 3] = 3.1
    far[:, np.arange(6), (wrong + 1) % 3] = 30
    candidates = [search.Candidate(Variant(name, {}, {}, "1")) for name in ("far", "close")]
    for candidate, logits in zip(candidates, (far, close), strict=True):
        candidate.logits = list(logits)
    units = Units.of(labels, np.arange(24), np.arange(24))
    assert (candidates[0].right(units, 2) == candidates[1].right(units, 2)).all()
    scores = [one.score(units, 2) for one in candidates]
    assert estimates.best_of(scores, [0, 0], even(24)) == 1


def test_the_probability_of_the_label_is_the_mean_over_repeats() -> None:
    logits = np.log(np.array([[[0.6, 0.4]], [[0.2, 0.8]]], np.float32))
    found = estimates.true_probabilities(logits, np.array([0]))
    scale = estimates.temperature_of(logits.reshape(2, 2), np.array([0, 0]), 1)
    first, second = (1 / (1 + np.exp((b - a) / scale)) for a, b in logits[:, 0].astype(float))
    assert found.tolist() == pytest.approx([(first + second) / 2])


def test_an_interval_holds_its_share_after_a_choice() -> None:
    """Choosing the luckiest of ten equal methods still leaves the truth inside the interval."""
    rng, held, means = np.random.default_rng(1), 0, []
    for seed in range(60):
        right = [(rng.random(60) < 0.6).astype(float) for _ in range(10)]
        chosen = max(range(10), key=lambda place: right[place].mean())
        found = estimates.estimate(right, chosen, even(60), seed)
        held += found.low <= 0.6 <= found.high
        means.append(found.mean)
    assert held >= 54
    assert abs(np.mean(means) - 0.6) < 0.03


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_intervals_of_all_right_or_wrong_have_a_width(share: float) -> None:
    low, high = estimates.wilson(share, 30)
    assert 0 <= low < high <= 1
    assert high - low == pytest.approx(0.294, abs=0.001)


def test_a_temperature_undoes_a_scale() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(4000, 5)).astype(np.float32) * 2
    powers = np.exp(logits)
    labels = np.array([rng.choice(5, p=row / row.sum()) for row in powers.astype(float)])
    found = estimates.temperature_of(7 * logits, labels, len(labels))
    assert found == pytest.approx(7, rel=0.1)
    parts = np.arange(len(labels)) % 5
    assert estimates.calibration_error(7 * logits, labels, parts, len(labels)) < 0.03


def test_answers_that_are_all_right_keep_a_doubt() -> None:
    logits, labels = 10 * np.eye(3, dtype=np.float32)[[0, 1, 2] * 4], np.array([0, 1, 2] * 4)
    temperature = estimates.temperature_of(logits, labels, 12)
    top = estimates.confidences(logits, temperature)
    assert 0.9 < top.min() < 0.99


def test_a_threshold_keeps_its_share_of_right_answers() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=400)
    logits = (3 * np.eye(3)[labels] + rng.normal(size=(400, 3))).astype(np.float32)
    found = estimates.threshold(logits, labels, 1.0, 0.9, 400)
    assert found is not None
    right = logits.argmax(axis=1) == labels
    kept = estimates.confidences(logits[right], 1.0) >= found
    assert kept.mean() == pytest.approx(0.9, abs=0.01)
    assert estimates.threshold(logits[:9], labels[:9], 1.0, 0.95, 9) is None


def answered(seed: int) -> tuple[Learned, list[list[Any]]]:
    """Random answers to 40 images, some of them copies and the last three not held out."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(4, 40, p=[0.5, 0.3, 0.15, 0.05]))
    labels[-3:] = 4
    groups = np.arange(40)
    for place in rng.choice(36, 10, replace=False).tolist():
        groups[place + 1] = groups[place]
    each = rng.dirichlet(np.ones(5), (3, 40)).astype(np.float32)
    each[:, :34, 0] += labels[:34] == 0
    each /= each.sum(axis=2, keepdims=True)
    each[:, -3:] = np.nan
    ids = tuple(f"{number}.jpg" for number in range(40))
    learned = Learned(ids, labels, groups, tuple("abcde"), each)
    answers = each[:, :-3].argmax(axis=2).tolist()
    table = out_of_fold.confusion(labels[:-3].tolist(), groups[:-3].tolist(), answers, 5)
    return learned, table


@pytest.mark.parametrize("seed", range(5))
def test_results_by_class_are_counted_by_picture(seed: int) -> None:
    learned, table = answered(seed)
    assert learned.confusion == pytest.approx(np.array(table, dtype=float))
    rows = learned.classes()
    assert [row["images"] for row in rows] == [sum(row) for row in table]
    for label, row in enumerate(rows[:-1]):
        if row["images"]:
            assert row["recall"] == pytest.approx(float(table[label][label] / sum(table[label])))
            assert row["low"] <= row["recall"] <= row["high"]
    assert rows[-1] == {"class": "e", "images": 0, "right": 0, "most_confused_with": ""} | (
        dict.fromkeys(("recall", "low", "high"))
    )
    for metric, wanted in (("top1", out_of_fold.top1), ("macro", out_of_fold.macro)):
        found = learned.right @ learned.units.weights(metric)
        assert found == pytest.approx(float(wanted(table)))
    worst = [row["recall"] for row in learned.worst()]
    stated = sorted(row["recall"] for row in rows if row["images"])
    assert worst == stated + [None] * (5 - len(stated))
    first = learned.confusions()[0]
    wrong = [table[row][column] for row in range(5) for column in range(5) if row != column]
    assert first["images"] == pytest.approx(float(max(wrong)))
    bins = learned.calibration()
    assert sum(images for images, _, _ in bins) == 3 * 37
    assert bins == sorted(bins, key=lambda each: each[2])


def test_intervals_are_those_of_fewer_images() -> None:
    for right in (0, 7, 20):
        assert estimates.wilson(right / 20, 65) == pytest.approx(out_of_fold.interval(right, 20))
    units = Units.of(np.repeat([0, 1], [20, 10]), np.arange(30), np.arange(30))
    found = estimates.own(np.repeat([1.0, 0.0], [20, 10]), units.weights("macro"))
    # Two classes of 20 and 10 count as 26.7 equal images: 4 / (1 / 20 + 1 / 10).
    assert (found.mean, found.images) == (0.5, 30)
    assert (found.low, found.high) == pytest.approx(estimates.wilson(0.5, 4 / (1 / 20 + 1 / 10)))


def test_the_error_of_a_lead_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 50))
    gap, error = estimates.lead(first, second, even(50))
    assert gap == pytest.approx((first - second).mean())
    assert error == pytest.approx((first - second).std(ddof=1) / 50**0.5)


@pytest.mark.parametrize("metric", ["top1", "macro"])
def test_an_interval_of_small_and_unequal_classes_holds_the_truth(metric: str) -> None:
    rng, inside = np.random.default_rng(5), 0
    for _ in range(300):
        counts = rng.permutation(np.geomspace(2, 60, 8).astype(int))
        recalls = rng.beta(4, 2, 8)
        labels = np.repeat(np.arange(8), counts)
        right = (rng.random(len(labels)) < recalls[labels]).astype(float)
        units = Units.of(labels, np.arange(len(labels)), np.arange(len(labels)))
        weights = units.weights(metric)
        found = estimates.own(right, weights)
        inside += found.low <= recalls[labels] @ weights <= found.high
    assert inside >= 285


def test_top1_is_flattered_by_large_easy_classes_alone() -> None:
    def made(recalls: list[float]) -> Learned:
        labels = np.repeat(np.arange(3), [80, 10, 10])
        rng = np.random.default_rng(6)
        answers = np.where(rng.random(100) < np.array(recalls)[labels], labels, (labels + 1) % 3)
        each = np.eye(3, dtype=np.float32)[answers][None]
        return Learned(tuple("x" * 100), labels, np.arange(100), ("a", "b", "c"), each)

    assert made([0.95, 0.3, 0.4]).remark()
    assert not made([0.7, 0.7, 0.7]).remark()
    assert not made([0.4, 0.9, 0.9]).remark()


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_copies_are_never_on_both_sides(seed: int, keep: bool) -> None:
    """Nor is a class held out as a whole, whatever is under two labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=30)
    groups = np.arange(30)
    for one, other in rng.integers(30, size=(12, 2)).tolist():
        first, second = sorted((groups[one], groups[other]))
        groups[groups == second] = first
    copies = Copies(groups, labels)
    double = {index for group in copies.contradictions for index in group}
    seen: set[int] = set()
    for fold in repeat_folds(copies, 1, seed, keep=keep):
        train, val = with_validation(copies, fold.train, seed)
        parts = [{*groups[part].tolist()} for part in (train, val, fold.held_out)]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert {*labels[train].tolist()} == {*labels.tolist()}
        assert not double & {*val.tolist()}
        assert not seen & {*fold.held_out.tolist()}
        seen |= {*fold.held_out.tolist()}
    assert keep or not double & seen
    single = [
        len({*groups[labels == label].tolist()} - {*groups[[*double]].tolist()}) < 2
        for label in range(4)
    ]
    for index in {*range(30)} - double - seen:
        assert single[labels[index]]
