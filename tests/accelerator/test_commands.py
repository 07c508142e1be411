"""Whole commands on rehearsal devices, with worker processes, give the CPU's results."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot_bench.store.store import Store
from tests.support.answers import stored_arrays
from tests.support.helpers import Result, flags, fsbench, image_folder, quick

METHODS = ("zero-shot", "tip-adapter-f", "coop", "clip-lora")
DEVICES = ("rehearsal:0", "rehearsal:1")


pytestmark = pytest.mark.usefixtures("inherited")


def done(*arguments: object) -> Result:
    result = fsbench(*arguments)
    assert result.code == 0, result.err
    return result


def run(store: Path, *more: object) -> dict[tuple[str, int], tuple[Any, Any]]:
    """Records of quick cells, and their arrays, by method and seed."""
    few = ("-d", "digits", "--backbone", "tiny", "--shots", "1", "--limit", "40")
    options = flags(quick(METHODS))
    done("run", "-m", ",".join(METHODS), *options, *few, "--store", store, *more)
    opened = Store(store)
    records = list(opened.records())
    return {
        (one.spec.method, one.spec.split_seed): (one, stored_arrays(opened, one.spec.key()))
        for one in records
    }


def test_run_on_two_devices(tmp_path: Path) -> None:
    exact = ("--precision", "fp32", "--seeds", "1,2")
    expected = run(tmp_path / "host", *exact, "--device", "cpu")
    found = run(tmp_path / "devices", *exact, "--device", ",".join(DEVICES))
    assert found.keys() == expected.keys()
    for cell, (record, arrays) in found.items():
        same = expected[cell][1]
        assert (arrays["predictions"] == same["predictions"]).all(), cell
        np.testing.assert_allclose(arrays["logits"], same["logits"], rtol=2e-3, atol=2e-2)
        assert record.footprint["peak_memory_mb"] > 0
    used = {record.environment["device"] for record, _ in found.values()}
    assert used == set(DEVICES)


def test_precision_of_the_device(tmp_path: Path) -> None:
    found = run(tmp_path, "--seeds", "1", "--device", "auto")
    assert len(found) == len(METHODS)
    assert {record.status for record, _ in found.values()} == {"done"}
    assert {record.spec.precision for record, _ in found.values()} == {"bf16"}
    assert {record.environment["device"] for record, _ in found.values()} == set(DEVICES)


def test_adapt_predict_and_evaluate(tmp_path: Path) -> None:
    photos = image_folder(tmp_path / "photos")
    answers, measured = [], []
    for device in ("cpu", DEVICES[1]):
        model = tmp_path / device.replace(":", "-")
        here = ("--device", device)
        fit = ("-m", "tip-adapter-f", "-o", "epochs=1", "--precision", "fp32")
        done("adapt", "-d", f"folder:{photos}", "--backbone", "tiny", "-O", model, *fit, *here)
        predicted = done("predict", model, photos / "test", "--format", "csv", *here)
        answers.append(list(csv.DictReader(predicted.out.splitlines())))
        evaluated = done("evaluate", model, "-d", f"folder:{photos}", "--format", "json", *here)
        measured.append(json.loads(evaluated.out))
    assert len(answers[0]) == 12
    assert [row["class"] for row in answers[0]] == [row["class"] for row in answers[1]]
    assert measured[0]["metrics"] == pytest.approx(measured[1]["metrics"], rel=1e-4)
