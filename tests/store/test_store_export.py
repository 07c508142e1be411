"""`fsbench store export`: the flat table of records, in three formats."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fewshot_bench.store.store import Store
from tests.support.helpers import fsbench
from tests.support.store_cases import filled, put, put_failed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = filled(tmp_path / "s", [1, 2])
    put(made, 3, options={"rank": 2}, overrides={"rank": 2}, method="lora")
    put_failed(made, 9)
    return made


def rows_of(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("select * from records")]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    return list(pandas.read_parquet(path).to_dict("records"))


@pytest.mark.parametrize("ending", ["csv", "sqlite", "parquet"])
def test_every_record_is_a_row(store: Store, tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"table.{ending}"
    done = fsbench("store", "export", path, "--store", store.path)
    assert (done.code, done.out) == (0, f"wrote 4 records to {path}\n")
    rows = {row["key"]: row for row in rows_of(path)}
    assert len(rows) == 4
    for record in store.records():
        row, spec = rows[record.spec.key()], record.spec
        assert (row["method"], row["status"]) == (spec.method, record.status)
        assert int(str(row["train_seed"])) == spec.train_seed
        assert json.loads(str(row["options"])) == spec.options
        if record.status == "done":
            assert float(str(row["top1"])) == record.metrics["top1"]
            assert float(str(row["billed_seconds"])) == record.timings["billed_seconds"]
            assert row["logits_digest"] == record.digests["logits"]
        else:
            assert row["error"] == "broke"


def test_filters_choose_rows(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    words = ("store", "export", path, "--store", store.path)
    assert fsbench(*words, "-m", "m", "--status", "done").code == 0
    assert [row["method"] for row in rows_of(path)] == ["m", "m"]
    assert fsbench(*words, "--seeds", "77").code == 2


def test_all_shots_are_a_word(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", [1])
    put(store, 2, shots=10**18 - 1)
    columns = store.columns(("shots", "top1"))
    assert sorted(columns["shots"]) == [1, 10**18 - 1]


def test_what_cannot_be_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (
        ("x.txt", "ends with .csv, .parquet, .sqlite"),
        ("no/x.csv", "cannot write"),
        ("s/records/x.csv", "whose files no output replaces"),
    ):
        done = fsbench("store", "export", tmp_path / name, "--store", store.path)
        assert (done.code, said in done.err) == (2, True), done
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = fsbench("store", "export", tmp_path / "x.parquet", "--store", store.path)
    assert (done.code, "fewshot-bench[parquet]" in done.err) == (2, True)
    assert not (tmp_path / "x.parquet").exists()
