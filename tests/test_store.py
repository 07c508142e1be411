"""The store: round trips, kills, concurrent writers, damage, full disks."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot_bench import store_files as store_module
from fewshot_bench.errors import StoreError, UsageError
from fewshot_bench.processes import this_machine
from fewshot_bench.record import SCHEMA, Record
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import TEMPORARY, Store

NAMES = st.text(max_size=12)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
# A specification has no empty names.
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
    metrics=OBJECTS,
    footprint=OBJECTS,
    timings=OBJECTS,
    environment=OBJECTS,
    notes=OBJECTS,
    error=st.none() | OBJECTS,
)
FAST = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def make(seed: int = 1, status: Any = "done", **spec: Any) -> Record:
    values = {"method": "m", "dataset": "d", "shots": 1, "split_seed": seed, "train_seed": seed}
    return Record(RunSpec(**{**values, **spec}), status, metrics={"top1": 50.0})


def put(store: Store, record: Record, n: int = 4) -> str:
    return written(store, record, n).spec.key()


def written(store: Store, record: Record, n: int = 4) -> Record:
    return store.write(record, np.ones((n, 3)), np.arange(n) % 3, [f"q{i}" for i in range(n)])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    store.create()
    return store


@FAST
@given(record=RECORDS)
def test_a_record_comes_back_as_it_was_written(store: Store, record: Record) -> None:
    stored = written(store, record)
    assert stored == dataclasses.replace(record, digests=stored.digests)
    key = record.spec.key()
    assert store.get(key) == stored
    assert store.complete(key) == (record.status == "done")
    assert stored in list(store.records())
    assert store.damaged == []


@FAST
@given(
    values=st.lists(st.tuples(st.floats(width=32, allow_nan=False), st.integers(0, 2**40))),
    data=st.data(),
)
def test_logits_come_back_as_they_were_written(
    store: Store, values: list[tuple[float, int]], data: st.DataObject
) -> None:
    alphabet = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    words = st.text(alphabet, max_size=9)
    ids = data.draw(st.lists(words, min_size=len(values), max_size=len(values)))
    logits = np.array([[value, -value] for value, _ in values], dtype=np.float32).reshape(-1, 2)
    labels = [label for _, label in values]
    record = make()
    store.write(record, logits, labels, ids)
    found = store.logits(record.spec.key())
    assert np.array_equal(found["logits"], logits)
    assert found["logits"].dtype == np.float32
    assert found["labels"].tolist() == labels
    assert found["labels"].dtype == np.int64
    assert found["ids"].tolist() == ids
    assert found["ids"].dtype.kind == "U"


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
    with pytest.raises(StoreError, match="no logits"):
        store.logits(key)
    with pytest.raises(StoreError, match="64 hexadecimal"):
        store.get("../../etc/passwd")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"schema": 1}', "\x00" * 64, "[" * 100_000, '{"schema": NaN}'],
)
def test_a_damaged_record_is_kept_and_never_used(store: Store, text: str) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.json"
    path.write_text(text)
    assert list(store.records()) == []
    assert [damage.path for damage in store.damaged] == [path]
    assert store.get(key) is None
    assert path.with_name(f"{path.name}.damaged-1").read_text() == text
    assert not path.exists()
    path.write_text(text)
    assert store.get(key) is None
    assert path.with_name(f"{path.name}.damaged-2").exists()


@pytest.mark.parametrize("change", [("method", "other"), ("shots", 16), ("limit", 5)])
def test_a_record_under_another_key_is_damaged(store: Store, change: tuple[str, Any]) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.json"
    values = json.loads(path.read_text())
    values["spec"][change[0]] = change[1]
    path.write_text(json.dumps(values))
    assert list(store.records()) == []
    assert "was changed" in str(store.damaged[0])
    assert store.get(key) is None


def test_a_metric_that_is_not_a_number_is_damage(store: Store) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.json"
    path.write_text(path.read_text().replace("50.0", "NaN"))
    assert store.get(key) is None
    bad = dataclasses.replace(make(2), metrics={"top1": float("nan")})
    with pytest.raises(StoreError, match="not JSON"):
        put(store, bad)


def test_a_newer_schema_is_refused_and_left_alone(store: Store) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.json"
    path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', f'"schema": {SCHEMA + 1}'))
    with pytest.raises(StoreError, match="upgrade"):
        store.get(key)
    assert path.exists()


def test_done_without_logits_is_not_done(store: Store) -> None:
    record = make()
    store.write(record)
    assert store.get(record.spec.key()) is None
    assert not store.complete(record.spec.key())
    assert "missing" in str(store.damaged[0])
    failed = store.write(make(2, "failed"))
    assert store.get(failed.spec.key()) == failed
    assert not store.complete(failed.spec.key())


@pytest.mark.parametrize("cut", [0, 10, -30, None])
def test_unreadable_logits_are_set_aside(store: Store, cut: int | None) -> None:
    key = put(store, make(), n=500)
    path = store.root / key[:2] / f"{key}.npz"
    data = bytearray(path.read_bytes())
    if cut is None:
        data[len(data) // 3] ^= 0xFF
    path.write_bytes(data if cut is None else data[:cut])
    assert not store.complete(key)
    assert path.with_name(f"{path.name}.damaged-1").exists()
    put(store, make())
    assert store.complete(key)


def test_reading_damaged_logits_says_so(store: Store) -> None:
    key = put(store, make())
    (store.root / key[:2] / f"{key}.npz").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="damaged"):
        store.logits(key)
    pickled = store.root / key[:2] / f"{key}.npz"
    np.savez_compressed(pickled, logits=np.array([{}], dtype=object), labels=[0], ids=["a"])
    with pytest.raises(StoreError, match="damaged"):
        store.logits(key)


def test_a_failed_rerun_leaves_no_logits_of_the_old_result(store: Store) -> None:
    key = put(store, make())
    store.write(make(status="failed"))
    with pytest.raises(StoreError, match="no logits"):
        store.logits(key)


def test_arrays_must_fit(store: Store) -> None:
    with pytest.raises(StoreError, match="expected"):
        store.write(make(), np.ones((2, 3)), [0], ["a", "b"])
    assert not list(store.root.rglob("*.json"))


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    for folder in (path, path / "inner"):
        with pytest.raises(UsageError, match="--store"):
            Store(folder).create()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot write"):
            Store(tmp_path / "x").create()
    finally:
        tmp_path.chmod(0o700)


def test_create_removes_only_stale_temporary_files(store: Store) -> None:
    folder = store.root / "ab"
    folder.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = this_machine()
    names = {
        f"{TEMPORARY}~{here}~{dead.pid}~1": False,
        f"{TEMPORARY}~{here}~{os.getpid()}~2": True,
        f"{TEMPORARY}~elsewhere~{dead.pid}~3": True,
        f"{TEMPORARY}~elsewhere~{dead.pid}~4": False,
        "notes.txt": True,
    }
    for name in names:
        (folder / name).write_text("half")
    old = time.time() - 2 * store_module.STALE_SECONDS
    os.utime(folder / f"{TEMPORARY}~elsewhere~{dead.pid}~4", (old, old))
    store.create()
    assert {name: (folder / name).exists() for name in names} == names


def test_a_full_disk_leaves_what_was_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = put(store, make())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space .* left.*continues"):
        put(store, make(status="failed"))
    monkeypatch.undo()
    assert store.complete(key)
    assert not list(store.root.rglob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("moment", [0, 1])
def test_a_kill_while_replacing(
    store: Store, monkeypatch: pytest.MonkeyPatch, moment: int, changed: bool
) -> None:
    """An equal result is never lost; a record is never left with the logits of another."""
    key = put(store, make())
    replace, calls = os.replace, iter(range(9))

    def killed(source: Path, target: Path) -> None:
        if next(calls) == moment:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        put(store, make(), n=5 if changed else 4)
    monkeypatch.undo()
    assert store.complete(key) == (not changed)


WRITER = """
import sys
import numpy as np
from fewshot_bench.record import SCHEMA, Record
from fewshot_bench.processes import this_machine
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store
store = Store(sys.argv[1])
first, last = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for seed in range(first, last):
    record = Record(RunSpec("m", "d", 1, seed, seed), "done", metrics={"top1": float(seed)})
    logits = np.full((400, 10), seed)
    store.write(record, logits, np.full(400, seed), [f"{seed}-{i}" for i in range(400)])
    print(seed, flush=True)
"""


def start_writer(store: Store, first: int, last: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(store.path), str(first), str(last)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def assert_whole(store: Store, seeds: set[int]) -> None:
    found = {record.spec.split_seed: record for record in store.records()}
    assert store.damaged == []
    assert seeds <= set(found)
    for seed, record in found.items():
        arrays = store.logits(record.spec.key())
        assert set(arrays["logits"].ravel().tolist()) == {seed}
        assert arrays["ids"][-1] == f"{seed}-399"


def test_kill_loses_only_the_cell_in_flight(store: Store) -> None:
    draw = random.Random(7)
    written: set[int] = set()
    for round_number in range(12):
        process = start_writer(store, 0, 100_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 0.15))
        process.kill()
        written |= {int(line) for line in process.stdout.read().split("\n")[:-1]}
        process.wait()
        process.stdout.close()
        if round_number % 4 == 3:
            assert_whole(store, written)
    assert written
    store.create()
    assert not list(store.root.rglob(f"{TEMPORARY}*"))
    assert_whole(store, written)


def test_concurrent_writers_of_the_same_cells(store: Store) -> None:
    processes = [start_writer(store, 0, 60) for _ in range(3)]
    while any(process.poll() is None for process in processes):
        list(store.records())
    for process in processes:
        assert process.returncode == 0
        assert process.stdout is not None
        process.stdout.close()
    assert_whole(store, set(range(60)))
    assert not list(store.root.rglob(f"{TEMPORARY}*"))
