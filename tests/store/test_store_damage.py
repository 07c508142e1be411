"""Damaged records and logits in a store are set aside and never used."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.record import SCHEMA, Record
from fewshot_bench.store import answer_files
from fewshot_bench.store.merge import UNUSABLE, merge
from fewshot_bench.store.store import Store, find
from fewshot_bench.store.verify import DAMAGED, verify
from fewshot_bench.utils.errors import StoreError
from tests.support.answers import stored_arrays
from tests.support.store_cases import filled
from tests.support.store_records import make, put


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "results", [])


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


def test_a_damaged_header_of_an_array_is_not_quoted_at_full_length(store: Store) -> None:
    key = put(store, make(), n=500)
    path = store.root / key[:2] / f"{key}.npz"
    data = bytearray(path.read_bytes())
    # The length of the first member's name.
    data[27] ^= 0x10
    path.write_bytes(data)
    assert not store.complete(key)
    (damage,) = store.damaged
    assert damage.reason.startswith("BadZipFile: File name in directory")
    assert len(damage.reason) < 300


def test_reading_damaged_logits_says_so(store: Store) -> None:
    key = put(store, make())
    (store.root / key[:2] / f"{key}.npz").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="damaged"):
        stored_arrays(store, key)
    pickled = store.root / key[:2] / f"{key}.npz"
    np.savez_compressed(pickled, logits=np.array([{}], dtype=object), labels=[0], ids=["a"])
    with pytest.raises(StoreError, match="damaged"):
        stored_arrays(store, key)


def test_a_pipe_in_place_of_a_record_is_named_and_not_waited_for(store: Store) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.json"
    path.unlink()
    os.mkfifo(path)
    assert list(store.records()) == []
    assert "is no regular file" in str(store.damaged[0])
    with pytest.raises(StoreError, match="is no regular file"):
        store.get(key)


def test_answers_that_this_user_may_not_read_are_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put(store, make())

    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    # Permissions do not hold for root.
    monkeypatch.setattr("fewshot_bench.store.answer_files.digest_of_file", refused)
    monkeypatch.setattr("fewshot_bench.store.answer_files.zipfile.ZipFile", refused)
    with pytest.raises(StoreError, match=r"cannot read '.*npz': Permission denied; check its perm"):
        store.get(key)
    monkeypatch.undo()
    assert store.complete(key)
    assert store.damaged == []


@pytest.mark.parametrize("listed", [False, True])
def test_a_cell_that_is_replaced_while_it_is_read_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch, listed: bool
) -> None:
    record = make()
    key = put(store, record)
    compared = answer_files.check

    def replaced(path: Path, old: Record) -> None:
        monkeypatch.undo()
        put(Store(store.path), dataclasses.replace(record, notes={"again": True}), n=5)
        compared(path, old)

    monkeypatch.setattr("fewshot_bench.store.store.check", replaced)
    found = next(iter(store.read_cells([record.spec])))[1] if listed else store.get(key)
    assert found is not None
    assert found.notes == {"again": True}
    assert store.damaged == []
    assert not list(store.root.rglob("*.damaged-*"))


def sparse(path: Path, size: int = 3 * 10**9) -> Path:
    """A file of zeros that takes no space on the disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_record_that_is_too_large_is_damaged_and_not_read(store: Store, tmp_path: Path) -> None:
    key = put(store, make())
    path = sparse(store.root / key[:2] / f"{key}.json")
    said = "it has 3.0 GB, expected at most 67.1 MB"
    assert list(store.records()) == []
    assert [damage.reason for damage in store.damaged] == [said]
    (finding,) = verify(store).findings
    assert (finding.kind, finding.text) == (DAMAGED, said)
    (step,) = merge(store.path, Store(tmp_path / "other"), dry_run=False)
    assert (step.outcome, step.lines) == (UNUSABLE, (said,))
    with pytest.raises(StoreError, match=f"'{path}' cannot be used: {said}"):
        find(str(path), store.path)
    assert store.get(key) is None
    assert path.with_name(f"{path.name}.damaged-1").exists()


def test_a_record_that_could_not_be_read_is_not_written(store: Store) -> None:
    record = dataclasses.replace(make(), status="failed", notes={"text": "x" * 68_000_000})
    with pytest.raises(StoreError, match=r"would have 68\.0 MB, expected at most 67\.1 MB: its"):
        store.write(record)
    assert list(store.root.rglob("*")) == [store.root / record.spec.key()[:2]]


def test_answers_that_lead_to_a_device_are_set_aside(store: Store) -> None:
    key = put(store, make())
    path = store.root / key[:2] / f"{key}.npz"
    path.unlink()
    path.symlink_to("/dev/zero")
    assert store.get(key) is None
    assert "it is no regular file" in str(store.damaged[0])
    assert path.with_name(f"{path.name}.damaged-1").is_symlink()
