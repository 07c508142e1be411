"""Statistics behind `fsbench adapt`: choice, interval, temperature, threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewshot_bench.plugins.models import estimates, search
from fewshot_bench.plugins.models.estimates import Units
from fewshot_bench.runner.variants import Variant


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
    units = Units.of(labels, np.arange(24), np.full(24, True))
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
    assert high - low == pytest.approx(0.161, abs=0.001)


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
