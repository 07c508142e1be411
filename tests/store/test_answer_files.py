"""Logits files: every number is that of full-precision logits, whatever part was kept."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fewshot_bench.api.metrics import GIVEN, METRICS, Answers, rounded
from fewshot_bench.store.answer_files import (
    ALL,
    ASKED,
    KEPT,
    MOST_LOGITS,
    NONE,
    TOP,
    estimate_bytes,
)
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from fewshot_bench.utils.errors import StoreError
from tests.support.answers import answers_of, put_answers
from tests.support.store_cases import filled
from tests.support.store_records import make

# Ties, one and two classes, differences beyond 16-bit range and below 16-bit resolution.
VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-100, 100, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
CASES = st.tuples(st.integers(1, 30), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=VALUES),
        hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)),
    )
)
Case = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled(tmp_path_factory.mktemp("kept") / "s", [])


def stored(store: Store, case: Case, kept: str) -> Answers:
    logits, labels = case
    ids = [f"q{number}" for number in range(len(labels))]
    record = put_answers(store, make(), logits, labels, ids, kept)
    assert record.environment[ASKED] == kept
    found = store.answers(record.spec.key())
    assert found.ids == ids
    return found.answers


@settings(max_examples=15, deadline=None)
@given(case=CASES)
def test_every_statistic_is_the_same_bits(store: Store, case: Case) -> None:
    exact = answers_of(*case)
    for kept in KEPT:
        answers = stored(store, case, kept)
        for name in set(GIVEN) - {"logits", "per_class", "classes"}:
            assert np.array_equal(getattr(answers, name), getattr(exact, name)), (kept, name)
        assert answers.classes == exact.classes
        assert rounded(answers) == rounded(exact)
        assert all(
            np.array_equal(metric.by_image(answers), metric.by_image(exact))
            for metric in METRICS.values()
            if metric.scores
        )


@settings(max_examples=15, deadline=None)
@given(case=CASES)
def test_logits_of_16_bits_give_the_stated_error(store: Store, case: Case) -> None:
    logits, labels = case
    found = stored(store, case, ALL).logits
    assert found.shape == logits.shape
    for label in range(logits.shape[1]):
        columns = np.full(len(labels), label)
        exact, kept = answers_of(logits, columns), answers_of(found, columns)
        gaps = logits.max(axis=1).astype(float) - logits[:, label]
        near = gaps < 65_000
        # Add the resolution of float32 itself at this magnitude.
        coarse = np.spacing(float(abs(logits).max()) * 2.0**29) + 1e-7
        bound = 2.0**-11 * (gaps + math.log(logits.shape[1])) + coarse
        assert (abs(exact.surprises - kept.surprises) <= bound)[near].all()
        assert (kept.surprises[~near] > 60_000).all()


@settings(max_examples=15, deadline=None)
@given(case=CASES)
def test_the_most_probable_classes(store: Store, case: Case) -> None:
    logits, _ = case
    order = np.argsort(-logits.astype(float), axis=1, kind="stable")[:, :5]
    exact = np.stack(
        [np.exp(-answers_of(logits, order[:, place]).surprises) for place in range(order.shape[1])],
        axis=1,
    )
    for kept in (ALL, TOP):
        stored(store, case, kept)
        top = store.answers(make().spec.key()).top
        assert top is not None
        assert np.array_equal(top[0], order)
        np.testing.assert_allclose(top[1], exact, rtol=1e-6, atol=1e-37)
    stored(store, case, NONE)
    assert store.answers(make().spec.key()).top is None


def test_ranks_by_hand() -> None:
    logits = [[3, 3, 1], [3, 3, 1], [3, 3, 1], [0, 5, 9]]
    assert answers_of(logits, [0, 1, 2, 0]).ranks.tolist() == [1, 2, 3, 3]


def test_logits_that_were_not_kept_are_named_with_the_next_step(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [])
    for kept in (TOP, NONE):
        answers = stored(store, (np.eye(3, dtype=np.float32), np.arange(3)), kept)
        with pytest.raises(StoreError, match=f"not kept .--keep-logits {kept}.; .*--force"):
            _ = answers.logits


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_not_stored(tmp_path: Path, value: float) -> None:
    store = filled(tmp_path / "s", [])
    logits = np.zeros((3, 2), np.float32)
    logits[1, 1] = value
    with np.errstate(all="ignore"), pytest.raises(StoreError, match="not finite"):
        put_answers(store, make(), logits, [0, 1, 0], ["a", "b", "c"])
    assert not list(store.root.rglob("*.json"))


def test_the_default_keeps_all_logits_of_cells_that_are_not_large(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [])
    for classes, kept in ((MOST_LOGITS // 8, ALL), (MOST_LOGITS // 8 + 1, TOP)):
        logits = np.zeros((8, classes), np.float32)
        record = put_answers(store, make(), logits, [0] * 8, [f"q{i}" for i in range(8)])
        assert record.environment[ASKED] == kept
        size = store.file(record.spec.key()).with_suffix(".npz").stat().st_size
        assert size <= estimate_bytes(8, classes)


@pytest.mark.parametrize("kept", KEPT)
def test_sizes_are_within_the_estimate(tmp_path: Path, kept: str) -> None:
    rng = np.random.default_rng(0)
    store = filled(tmp_path / "s", [])
    for queries, classes in ((3, 2), (500, 40)):
        logits = 30 * rng.standard_normal((queries, classes), dtype=np.float32)
        ids = [f"val/n{i % 997:08d}/ILSVRC2012_val_{i:08d}.JPEG" for i in range(queries)]
        labels = rng.integers(0, classes, queries)
        record = put_answers(store, make(queries), logits, labels, ids, kept)
        size = store.file(record.spec.key()).with_suffix(".npz").stat().st_size
        assert size <= estimate_bytes(queries, classes, kept)
    assert verify(store).statuses["done"] == 2


def test_a_large_cell_is_written_and_read_in_parts(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [])
    logits = np.random.default_rng(0).standard_normal((40_000, 250), dtype=np.float32)
    labels, ids = np.arange(40_000) % 250, [str(number) for number in range(40_000)]
    tracemalloc.start()
    try:
        record = put_answers(store, make(), logits, labels, ids, ALL)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        store.answers(record.spec.key())
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The logits themselves are not counted as allocated.
    assert written < 1.6 * logits.nbytes
    assert read < 1.6 * logits.nbytes
