"""`compare --predictions`: each method's prediction for an image, on one line per image."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.answers import put_answers, stored_arrays
from tests.support.compare_records import make, run_compare
from tests.support.synthetic_store import fill


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, two methods, two shots and seeds, with logits."""
    folder = tmp_path_factory.mktemp("made") / "s"
    fill(folder, 2, 2, (1, 4), (1, 2), queries=30, classes=4)
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    from pyarrow import parquet

    found: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_prediction_is_that_of_the_logits(store: Path, tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"out.{ending}"
    shown = run_compare("--store", store, "--predictions", file)
    assert shown.exit_code == 0, shown.exception
    assert f"{file}: 240 rows of predictions, 2 methods, 2 data sets, 16 cells" in shown.stderr
    rows = read(file)
    assert len(rows) == 2 * 2 * 2 * 30
    opened = Store(store)
    for record in opened.records():
        spec = record.spec
        arrays = stored_arrays(opened, spec.key())
        mine = [
            row
            for row in rows
            if (row["dataset"], int(row["shots"]), int(row["train_seed"]))
            == (spec.dataset, spec.shots, spec.train_seed)
        ]
        assert [row["image"] for row in mine] == arrays["ids"].tolist()
        assert [int(row["label"]) for row in mine] == arrays["labels"].tolist()
        predicted = arrays["logits"].argmax(1)
        assert [int(row[f"{spec.method} prediction"]) for row in mine] == predicted.tolist()
        names = dict(zip(arrays["labels"].tolist(), (r["label_name"] for r in mine), strict=True))
        logits = arrays["logits"].astype(float)
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        # Stored logits are rounded, displayed values are not.
        confidence = [float(row[f"{spec.method} confidence"]) for row in mine]
        assert confidence == pytest.approx(shares.max(1).tolist(), rel=1e-3)
        for row, label in zip(mine, predicted.tolist(), strict=True):
            assert row[f"{spec.method} name"] == names.get(label, row[f"{spec.method} name"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_all_train_images_are_a_word(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    opened = Store(tmp_path / "s")
    opened.create()
    for shots in (4, ALL_SHOTS):
        put_answers(opened, make(shots=shots), np.array([[2.0, 0.0]]), [0], ["x"])
    file = tmp_path / f"out.{ending}"
    run_compare("--store", opened.path, "--predictions", file)
    assert [row["shots"] for row in read(file)] == ["4", "all"]


def test_filters_and_names_apply(store: Path, tmp_path: Path) -> None:
    file, method = tmp_path / "out.csv", next(Store(store).records()).spec.method
    words = ("--shots", "4", "--seeds", "2", "--method", method, "--rename", f"{method}=Ours")
    run_compare("--store", store, *words, "--predictions", file)
    rows = read(file)
    assert {(row["shots"], row["split_seed"], row["train_seed"]) for row in rows} == {
        ("4", "2", "2")
    }
    assert [name for name in rows[0] if "prediction" in name] == ["Ours prediction"]


def test_methods_stand_on_the_line_of_the_same_image(tmp_path: Path) -> None:
    """Different images, another order, and a repeated image: matched by image, not by position."""
    opened = Store(tmp_path / "s")
    opened.create()
    logits = np.array([[2.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    put_answers(opened, make("a", digest="d"), logits, [0, 1, 1], ["x", "=y", "x"])
    put_answers(opened, make("b", digest="d"), logits[::-1], [1, 1, 0], ["z", "=y", "x"])
    opened.write(make("c", digest="d"))
    file = tmp_path / "out.csv"
    shown = run_compare("--store", opened.path, "--predictions", file)
    assert "warning: 1 finished record without logits that can be used left out" in shown.stderr
    rows = [
        (row["image"], row["label"], row["a prediction"], row["b prediction"], row["c prediction"])
        for row in read(file)
    ]
    assert rows == [
        ("x", "0", "0", "0", ""),
        ("'=y", "1", "1", "1", ""),
        ("x", "1", "0", "", ""),
        ("z", "1", "", "0", ""),
    ]


def test_without_any_logits_nothing_is_written(tmp_path: Path) -> None:
    opened = Store(tmp_path / "s")
    opened.create()
    opened.write(make())
    file = tmp_path / "out.csv"
    error = run_compare("--store", opened.path, "--predictions", file).exception
    assert isinstance(error, UsageError)
    assert "no finished record here has logits" in str(error)
    assert not list(tmp_path.glob("*out.csv*"))


def test_other_endings_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for name in ("out.json", "out", "nowhere/out.csv"):
        error = run_compare(
            "--store", tmp_path / "none", "--predictions", tmp_path / name
        ).exception
        assert isinstance(error, UsageError)
        assert "--predictions" in str(error)


def test_parquet_without_its_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = run_compare("--store", tmp_path / "none", "--predictions", tmp_path / "o.parquet")
    assert "pip install 'fewshot-bench[parquet]'" in str(error.exception)


def test_class_names_are_those_of_the_record(tmp_path: Path) -> None:
    opened = Store(tmp_path / "s")
    opened.create()
    record = make()
    named = dataclasses.replace(record, split=record.split | {"classnames": ["cat", "dog"]})
    put_answers(opened, named, np.array([[0.0, 2.0]]), [0], ["x"])
    file = tmp_path / "out.csv"
    run_compare("--store", opened.path, "--predictions", file)
    (row,) = read(file)
    assert (row["label_name"], row["coop name"]) == ("cat", "dog")
