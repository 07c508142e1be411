"""Curves in a store: under the record's digest, and read only by those who ask for them."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.api.record import Record, digests_of_text
from fewshot_bench.store import index as store_index
from fewshot_bench.store import record_files
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import StoreError
from tests.support.helpers import fsbench
from tests.support.store_cases import filled, result

CURVES = {"loss": {"steps": [1, 2, 9], "values": [2.5, 1e-05, 0.25]}}


def put(store: Store, seed: int, curves: dict[str, Any]) -> Path:
    """Store a record without answers that has curves."""
    record, _, _ = result(seed)
    store.write(dataclasses.replace(record, status="failed", curves=curves))
    return store.file(record.spec.key())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An indexed store of a record with curves and one without."""
    monkeypatch.setattr(store_index, "WORTH", 1)
    monkeypatch.setattr(store_index, "SETTLED_SECONDS", 0.02)
    store = filled(tmp_path / "s", ())
    put(store, 1, CURVES)
    put(store, 2, {})
    time.sleep(0.04)
    assert len(list(store.records())) == 2
    return store


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The record files that are opened from now on."""
    paths: list[str] = []
    read = record_files.read_content
    monkeypatch.setattr(record_files, "read_content", lambda p: paths.append(str(p)) or read(p))
    return paths


def by_seed(store: Store) -> dict[int, Record]:
    return {record.spec.split_seed: record for record in Store(store.path).records()}


def test_curves_are_read_when_they_are_asked_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = opened(monkeypatch)
    records = by_seed(store)
    assert records[1].timings == {"billed_seconds": 2.25}
    assert records[2].curves == {}
    assert paths == []
    assert records[1].curves == records[1].curves == CURVES
    assert len(paths) == 1
    assert Record.entries([*by_seed(store).values()], "curves", "loss.steps") in (
        [([1, 2, 9],), (None,)],
        [(None,), ([1, 2, 9],)],
    )


def test_a_listed_record_that_is_copied_has_its_curves(store: Store) -> None:
    listed = by_seed(store)[1]
    path = store.file(listed.spec.key())
    assert listed.to_dict() == json.loads(path.read_bytes())
    assert dataclasses.replace(listed, notes={"a": 1}).curves == CURVES


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_curves_of_another_record_are_not_taken_for_its_own(store: Store, how: str) -> None:
    listed = by_seed(store)[1]
    path = store.file(listed.spec.key())
    if how == "removed":
        path.unlink()
    else:
        put(store, 1, {"loss": {"steps": [1], "values": [7.0]}})
    with pytest.raises(StoreError, match=f"{path}' (was replaced|changed) while it was read"):
        _ = listed.curves


def damage(path: Path, change: Any, *, seal: bool) -> None:
    values = json.loads(path.read_bytes())
    change(values["curves"])
    if seal:
        text = json.dumps(values).encode()
        values["digests"]["record"] = digests_of_text(text)[1]
    path.write_text(json.dumps(values))


def test_a_changed_point_is_noticed(store: Store) -> None:
    (path,) = [store.file(record.spec.key()) for seed, record in by_seed(store).items() if seed < 2]
    damage(path, lambda curves: curves["loss"]["values"].__setitem__(0, 2.4), seal=False)
    checked = fsbench("store", "verify", "--store", store.path)
    assert checked.code == 1
    assert "changed after it was written" in checked.out + checked.err


WRONG = {
    "steps": (lambda c: c["loss"]["steps"].pop(), "curves.loss with 2 steps and 3 values"),
    "none": (lambda c: c["loss"].update(steps=[], values=[]), "0 steps and 0 values"),
    "kind": (lambda c: c["loss"]["steps"].__setitem__(1, 1.5), "curves.loss.steps"),
    "text": (lambda c: c["loss"]["values"].__setitem__(1, "nan"), "curves.loss.values"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_curve_is_named(store: Store, what: str) -> None:
    change, expected = WRONG[what]
    path = store.file(by_seed(store)[1].spec.key())
    damage(path, change, seal=True)
    read = Store(store.path)
    assert len(list(read.records())) == 1
    (told,) = read.damaged
    assert expected in str(told)


def test_merged_stores_keep_curves(store: Store, tmp_path: Path) -> None:
    target = tmp_path / "t"
    assert fsbench("store", "merge", store.path, "--store", target).code == 0
    assert by_seed(Store(target))[1].curves == CURVES


def test_the_flat_table_has_them_as_json(store: Store) -> None:
    columns = Store(store.path).columns(("split_seed", "curves"))
    curves = dict(zip(*columns.values(), strict=True))
    assert curves[2] is None
    assert json.loads(curves[1]) == CURVES
