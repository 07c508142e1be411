"""The store: round trips, layout, and what cannot be stored."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.api.record import LARGEST, Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import TEMPORARY, Store
from fewshot_bench.utils.errors import StoreError, UsageError
from tests.support.answers import put_answers
from tests.support.helpers import fsbench
from tests.support.store_cases import filled
from tests.support.store_records import make, put, written

NAMES = st.text(max_size=12)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(
    -LARGEST, LARGEST, exclude_min=True, exclude_max=True
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
METRICS = st.dictionaries(NAMES, st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6), max_size=3)
# Names in a specification are never empty.
WORDS = st.text(min_size=1, max_size=12)
OPTIONS = st.dictionaries(WORDS, VALUES, max_size=3)
SPECS = st.builds(
    RunSpec,
    method=WORDS,
    dataset=WORDS,
    shots=st.integers(0, 64),
    split_seed=st.integers(0, 9),
    train_seed=st.integers(0, 9),
    limit=st.none() | st.integers(1, 99),
    options=OPTIONS,
    overrides=OPTIONS,
)
RECORDS = st.builds(
    Record,
    spec=SPECS,
    status=st.sampled_from(["done", "failed"]),
    split=OBJECTS,
    metrics=METRICS,
    footprint=OBJECTS,
    timings=OBJECTS,
    environment=OBJECTS,
    notes=OBJECTS,
    error=st.none() | OBJECTS,
)
FAST = settings(max_examples=20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "results", [])


@FAST
@given(record=RECORDS)
def test_a_record_comes_back_as_it_was_written(store: Store, record: Record) -> None:
    stored = written(store, record)
    environment = {**record.environment, "kept_logits": "all"}
    assert stored == dataclasses.replace(record, digests=stored.digests, environment=environment)
    key = record.spec.key()
    assert store.get(key) == stored
    assert store.complete(key) == (record.status == "done")
    assert stored in list(store.records())
    assert store.damaged == []


@FAST
@given(
    values=st.lists(st.tuples(st.floats(-50, 50, width=32), st.integers(0, 1)), min_size=1),
    data=st.data(),
)
def test_answers_come_back_as_they_were_written(
    store: Store, values: list[tuple[float, int]], data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.text(max_size=9), min_size=len(values), max_size=len(values)))
    logits = np.array([[value, -value] for value, _ in values], dtype=np.float32)
    labels = [label for _, label in values]
    record = make()
    put_answers(store, record, logits, labels, ids)
    found = store.answers(record.spec.key())
    np.testing.assert_allclose(found.answers.logits, logits, rtol=2**-9, atol=1e-7)
    assert found.answers.logits.dtype == np.float32
    assert found.answers.labels.tolist() == labels
    assert found.answers.labels.dtype == np.int64
    assert found.ids == ids


def test_layout_and_identical_bytes(store: Store) -> None:
    key = put(store, make())
    record, archive = (store.root / key[:2] / f"{key}{end}" for end in (".json", ".npz"))
    before = record.read_bytes(), archive.read_bytes()
    time.sleep(0.01)
    put(store, make())
    assert before == (record.read_bytes(), archive.read_bytes())
    assert sorted(path.name for path in record.parent.iterdir()) == [record.name, archive.name]


def test_records_are_sorted_and_skip_temporary_files(store: Store) -> None:
    keys = sorted(put(store, make(seed)) for seed in range(20))
    (store.root / keys[0][:2] / f"{TEMPORARY}~x~1~y.json").write_text("{")
    assert [record.spec.key() for record in store.records()] == keys
    assert store.damaged == []


def test_nothing_in_an_absent_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    key = make().spec.key()
    assert (list(store.records()), store.get(key)) == ([], None)
    with pytest.raises(StoreError, match="no answers"):
        store.answers(key)
    with pytest.raises(StoreError, match="64 hexadecimal"):
        store.get("../../etc/passwd")


def test_a_failed_rerun_leaves_no_logits_of_the_old_result(store: Store) -> None:
    key = put(store, make())
    store.write(make(status="failed"))
    with pytest.raises(StoreError, match="no answers"):
        store.answers(key)


def test_arrays_must_fit(store: Store) -> None:
    with pytest.raises(StoreError, match="expected"):
        put_answers(store, make(), np.ones((2, 3)), [0], ["a", "b"])
    assert not list(store.root.rglob("*.json"))


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    for folder in (path, path / "inner"):
        with pytest.raises(UsageError, match="is not a folder; choose another store"):
            Store(folder).create()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot write"):
            Store(tmp_path / "x").create()
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("above", [".", "records", "records/xx"])
def test_a_record_is_named_from_any_folder(
    above: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next(filled(tmp_path, [1]).root.glob("*/*.json"))
    folder = tmp_path / above.replace("xx", file.parent.name)
    monkeypatch.chdir(folder)
    shown = fsbench("show", file.relative_to(folder))
    assert (shown.code, shown.out.startswith("m on d")) == (0, True), shown


def test_what_cannot_be_removed_does_not_keep_a_store_from_being_opened(tmp_path: Path) -> None:
    store = filled(tmp_path, [1])
    # A folder stands for the file of another user, which root could remove.
    remains = store.root / f"{TEMPORARY}~gone~1~00"
    remains.mkdir()
    os.utime(remains, (0, 0))
    assert store.create() == []
    assert remains.is_dir()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_only_a_file_system_that_syncs_no_folders_is_excused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    if number == errno.EIO:
        with pytest.raises(StoreError, match="Input/output error"):
            filled(tmp_path, [1])
    else:
        assert len(list(filled(tmp_path, [1]).records())) == 1
