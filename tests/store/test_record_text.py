"""The digest of a record's text: written records are not checked again, changed ones are."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record, digest_of_values
from fewshot_bench.store import answer_files, record_files
from fewshot_bench.store import index as store_index
from fewshot_bench.store.record_files import (
    is_as_written,
    read_fields,
    read_record,
    read_values,
    without,
    written,
)
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from tests.store_cases import filled, flip, put, result


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was checked")


def test_what_was_written_is_not_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s")
    keys = [path.stem for path in store.root.rglob("*.json")]
    expected = list(store.records())
    monkeypatch.setattr(record_files, "unsealed", refuse)
    monkeypatch.setattr(answer_files, "read", refuse)
    assert list(Store(store.path).records()) == expected
    assert [store.get(key) for key in sorted(keys)] == expected
    assert [record for _, record in store.held([record.spec for record in expected])] == expected


def test_every_changed_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = next(store.root.rglob("*.json"))
    whole, (record,) = path.read_bytes(), store.records()
    draw = random.Random(3)
    end = range(len(whole) - 260, len(whole))
    for position in (*draw.sample(range(len(whole)), 150), *end):
        flip(path, position, draw.randrange(8))
        assert not is_as_written(path.read_bytes(), path.stem)
        assert list(Store(store.path).records()) in ([], [record])
        path.write_bytes(whole)


def test_a_record_may_be_laid_out_otherwise(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path, expected = next(store.root.rglob("*.json")), list(store.records())
    path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True))
    assert not is_as_written(path.read_bytes(), path.stem)
    assert list(Store(store.path).records()) == expected
    assert verify(store).findings == []


def test_notes_that_are_null_are_read_as_none_at_all(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = next(store.root.rglob("*.json"))
    values = json.loads(path.read_bytes()) | {"notes": None}
    del values["digests"]["text"], values["digests"]["seal"]
    values["digests"]["record"] = digest_of_values(values)
    path.write_text(json.dumps(values))
    (listed,) = Store(store.path).records()
    assert listed == read_record(path)
    assert listed.to_dict()["notes"] == {}


def test_a_record_of_another_key_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1, 2])
    one, other = sorted(store.root.rglob("*.json"))
    other.write_bytes(one.read_bytes())
    assert not is_as_written(other.read_bytes(), other.stem)
    assert [record.spec.key() for record in Store(store.path).records()] == [one.stem]
    assert store.get(other.stem) is None


def test_a_record_of_another_version_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path / "s", [1])
    path, expected = next(store.root.rglob("*.json")), list(store.records())
    monkeypatch.setattr(record_files, "_READER", b"another")
    assert not is_as_written(path.read_bytes(), path.stem)
    assert list(Store(store.path).records()) == expected


def test_values_that_no_record_has_are_named_when_they_are_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    record, *_ = result(2)
    record = Record(record.spec, "failed", metrics={"top1": "much"}, error={"message": "m"})
    _, text = written(record, {})
    assert b'"text"' not in text
    store.write(record)
    again = Store(store.path)
    assert len(list(again.records())) == 1
    assert "metrics.top1 is 'much'" in again.damaged[0].reason


def test_answers_are_read_in_full_where_their_file_is_another(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    path = put(store, 2)
    archive = path.with_suffix(".npz")
    assert store.complete(path.stem)
    # An archive comment changes no array.
    content = archive.read_bytes()
    archive.write_bytes(content[:-2] + b"\x01\x00x")
    assert store.complete(path.stem)
    flip(archive, 100)
    assert not store.complete(path.stem)


def test_records_share_equal_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path / "s", range(9))
    listed = list(store.records())
    expected = [read_record(path) for path in sorted(store.root.rglob("*.json"))]
    assert listed == expected
    splits = [record.split for record in listed]
    assert len({id(split) for split in splits}) == len({json.dumps(split) for split in splits}) < 9
    # Values do not depend on how many are cached.
    monkeypatch.setattr(store_index, "_MOST_BYTES", 1)
    assert list(Store(store.path).records()) == expected


def test_a_text_of_another_layout_gives_the_same_fields(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (path,) = store.root.rglob("*.json")
    written = read_fields(path, path.stem)
    values = read_values(path, path.stem)
    assert {name: json.loads(text) for name, text in written.items()} == values
    for layout in ({"separators": (",", ":")}, {"indent": 3, "sort_keys": True}):
        path.write_text(json.dumps(values, **layout))
        found = read_fields(path, path.stem)
        assert {name: json.loads(text) for name, text in found.items()} == values
        assert list(store.records()) == [read_record(path)]


def test_an_entry_is_cut_from_any_place() -> None:
    entries = {"a": {"b": 1}, "b": 'x",\n  "a": 2', "c": [2.5, {"a": 1}]}
    for given in (entries, {"b": entries["b"]}, {}):
        text = json.dumps({"whole": given}, indent=1).encode()
        field = text.partition(b": ")[2].removesuffix(b"\n}")
        for name in (*entries, "d"):
            rest, value = without(field, name)
            assert json.loads(value) == given.get(name)
            assert json.loads(rest) == {n: v for n, v in given.items() if n != name}


def test_answers_that_are_no_file_are_set_aside(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    (archive,) = store.root.rglob("*.npz")
    archive.unlink()
    archive.mkdir()
    assert store.get(archive.stem) is None
    assert [damage.path.name for damage in store.damaged] == [f"{archive.name}.damaged-1"]
