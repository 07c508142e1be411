"""The text of a record: changed ones are refused, whatever was changed."""

from __future__ import annotations

import json
from pathlib import Path

from fewshot_bench.api.record import Record
from fewshot_bench.store.record_files import read_record
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from tests.support.store_cases import filled, fit_digests, put, result


def test_a_record_may_be_laid_out_otherwise(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path, expected = next(store.root.rglob("*.json")), list(store.records())
    path.write_text(json.dumps(json.loads(path.read_bytes()), indent=4))
    assert list(Store(store.path).records()) == expected
    assert verify(store).findings == []


def test_notes_that_are_null_are_read_as_none_at_all(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = next(store.root.rglob("*.json"))
    values = json.loads(path.read_bytes()) | {"notes": None}
    fit_digests(values)
    path.write_text(json.dumps(values))
    (listed,) = Store(store.path).records()
    assert listed == read_record(path)
    assert listed.to_dict()["notes"] == {}


def test_values_that_no_record_has_are_named_when_they_are_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    record, *_ = result(2)
    record = Record(record.spec, "failed", metrics={"top1": "much"}, error={"message": "m"})
    store.write(record)
    again = Store(store.path)
    assert len(list(again.records())) == 1
    assert "metrics.top1 'much': expected `int | float`" in again.damaged[0].reason


def test_answers_in_another_file_are_not_those_of_the_record(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    archive = path.with_suffix(".npz")
    assert store.complete(path.stem)
    # An archive comment changes no array.
    content = archive.read_bytes()
    archive.write_bytes(content[:-2] + b"\x01\x00x")
    assert not store.complete(path.stem)


def test_records_share_equal_splits(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", range(9))
    listed = list(store.records())
    expected = [read_record(path) for path in sorted(store.root.rglob("*.json"))]
    assert listed == expected
    splits = [record.split for record in listed]
    assert len({id(split) for split in splits}) == len({json.dumps(split) for split in splits}) < 9


def test_answers_that_are_no_file_are_set_aside(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (archive,) = store.root.rglob("*.npz")
    archive.unlink()
    archive.mkdir()
    assert store.get(archive.stem) is None
    assert [damage.path.name for damage in store.damaged] == [f"{archive.name}.damaged-1"]
