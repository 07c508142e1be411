"""Metrics from logits and labels, against scikit-learn and plain loops."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score

from fewshot_bench.api import metrics
from fewshot_bench.api.metrics import METRICS
from fewshot_bench.store.verify import ABSOLUTE
from tests.support.answers import answers_of

CASES = st.tuples(st.integers(1, 40), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, shape, elements=st.floats(-50, 50, width=32)),
        arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)),
    )
)
EXAMPLES = settings(max_examples=80)


def softmax(row: np.ndarray) -> list[float]:
    powers = [math.exp(float(value) - float(row.max())) for value in row]
    return [power / sum(powers) for power in powers]


def plain_error(confidence: list[float], hits: list[bool], bins: int = 15) -> float:
    """Expected calibration error, written as in Guo et al."""
    error = 0.0
    for index in range(bins):
        low, high = index / bins, (index + 1) / bins
        inside = [i for i, value in enumerate(confidence) if low < value <= high]
        if inside:
            accuracy = sum(hits[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return 100 * error


def plain_adaptive_error(confidence: list[float], hits: list[bool], bins: int = 15) -> float:
    """Adaptive calibration error: sorted, cut into bins of equal length, the longer ones first."""
    order = sorted(range(len(hits)), key=lambda i: confidence[i])
    error, start = 0.0, 0
    for index in range(bins):
        length = len(hits) // bins + (index < len(hits) % bins)
        inside, start = order[start : start + length], start + length
        gap = sum(hits[i] for i in inside) - sum(confidence[i] for i in inside)
        error += abs(gap) / len(hits)
    return 100 * error


@EXAMPLES
@given(CASES)
def test_accuracy_f1_and_log_likelihood(case: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = case
    found = metrics.measured(answers_of(logits, labels))
    chosen, present = logits.argmax(1), np.unique(labels)
    recalls = recall_score(labels, chosen, labels=present, average=None, zero_division=0)
    f1 = f1_score(labels, chosen, labels=present, average="macro", zero_division=0)
    assert found["top1"] == pytest.approx(100 * np.mean(chosen == labels))
    assert found["macro_accuracy"] == pytest.approx(100 * recalls.mean())
    assert found["macro_f1"] == pytest.approx(100 * f1)
    assert found["n"] == len(labels)
    rows = torch.from_numpy(logits).double()
    nll = torch.nn.functional.cross_entropy(rows, torch.from_numpy(labels))
    assert found["nll"] == pytest.approx(float(nll), abs=1e-9)


@EXAMPLES
@given(CASES)
def test_brier_and_calibration_are_those_of_plain_loops(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, labels = case
    found = metrics.measured(answers_of(logits, labels))
    rows = [softmax(row) for row in logits]
    squares = [
        sum((p - (index == label)) ** 2 for index, p in enumerate(row))
        for row, label in zip(rows, labels, strict=True)
    ]
    assert found["brier"] == pytest.approx(sum(squares) / len(squares), abs=1e-9)
    assert 0 <= found["brier"] <= 2


@pytest.mark.parametrize("images", [1, 7, 15, 16, 400])
def test_calibration_errors_are_those_of_plain_loops(images: int) -> None:
    rng = np.random.default_rng(images)
    logits = 2 * rng.standard_normal((images, 5)).astype(np.float32)
    labels = rng.integers(0, 5, images)
    found = metrics.measured(answers_of(logits, labels))
    confidence = [max(softmax(row)) for row in logits]
    hits = (logits.argmax(1) == labels).tolist()
    assert found["ece"] == pytest.approx(plain_error(confidence, hits), abs=1e-9)
    assert found["adaptive_ece"] == pytest.approx(plain_adaptive_error(confidence, hits), abs=1e-9)


def test_bins_are_closed_on_the_right() -> None:
    # 3/15 falls into the third bin, together with 2.5/15; their errors cancel there.
    confidence, hits = np.array([3 / 15, 2.5 / 15]), np.array([True, False])
    expected = 100 * abs(1 - 5.5 / 15) / 2
    assert metrics.calibration_error(confidence, hits) == pytest.approx(expected)
    above = metrics.calibration_error(np.array([3.01 / 15, 2.5 / 15]), hits)
    assert above == pytest.approx(100 * (1 - 3.01 / 15 + 2.5 / 15) / 2)
    assert metrics.calibration_error(np.array([1.0]), np.array([True])) == 0


def test_a_model_that_is_right_as_often_as_it_says_is_calibrated() -> None:
    confidence, hits = np.full(1000, 0.75), np.arange(1000) % 4 < 3
    assert metrics.calibration_error(confidence, hits) == pytest.approx(0)
    assert metrics.adaptive_calibration_error(confidence, hits) == pytest.approx(0)


def test_the_order_of_images_is_of_no_account() -> None:
    rng = np.random.default_rng(0)
    logits = rng.integers(-2, 3, (200, 3)).astype(np.float32)
    labels = rng.integers(0, 3, 200)
    expected = metrics.measured(answers_of(logits, labels))
    for _ in range(5):
        order = rng.permutation(200)
        found = metrics.measured(answers_of(logits[order], labels[order]))
        assert found == pytest.approx(expected, abs=1e-9)


def test_many_rows_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    whole = metrics.measured(answers_of(logits, labels))
    monkeypatch.setattr(metrics, "_PART", 24)
    assert metrics.measured(answers_of(logits, labels)) == pytest.approx(whole, abs=1e-12)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert whole["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(4)), abs=1e-6)


def test_classes_one_by_one() -> None:
    labels, chosen = np.array([0, 0, 0, 1, 1, 3]), np.array([0, 0, 1, 1, 2, 2])
    found = metrics.per_class(chosen, labels, 5)
    present = [0, 1, 3]
    assert found.images.tolist() == [3, 2, 0, 1, 0]
    options = {"labels": present, "average": None, "zero_division": np.nan}
    with warnings.catch_warnings(action="ignore"):
        recall, precision = (score(labels, chosen, **options) for score in
                             (recall_score, precision_score))  # fmt: skip
        f1 = f1_score(labels, chosen, **options)
    np.testing.assert_allclose(found.accuracy[present], 100 * recall)
    np.testing.assert_allclose(found.precision[present], 100 * precision)
    np.testing.assert_allclose(found.f1[present], 100 * f1)
    for values in (found.accuracy, found.precision, found.f1):
        assert np.isnan(values[[2, 4]]).all()


def test_records_carry_every_metric_rounded() -> None:
    logits, labels = torch.eye(4) * 3, torch.tensor([0, 1, 2, 0])
    stated = metrics.rounded(answers_of(logits.numpy(), labels.numpy()))
    assert stated.keys() == {*METRICS, "n"}
    exact = metrics.measured(answers_of(logits.numpy(), labels.numpy()))
    assert stated == pytest.approx(exact, abs=ABSOLUTE)
    assert all(value == round(value, 6) for value in stated.values())


def test_no_images_no_metrics() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.measured(answers_of(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)))


def test_confidence_is_the_highest_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(3).normal(0, 30, (50, 7)).astype(np.float32)
    monkeypatch.setattr(metrics, "_PART", 30)
    expected = [max(softmax(row)) for row in logits]
    found = answers_of(logits, [0] * 50).confidences
    assert found == pytest.approx(expected, rel=1e-12)
