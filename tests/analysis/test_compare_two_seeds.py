"""Two seeds are shown as a range, and no printed interval is based on two."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.analysis.statistics.intervals import estimate
from fewshot_bench.analysis.statistics.paired import compare_paired
from fewshot_bench.analysis.table.build import build
from fewshot_bench.analysis.table.layouts import full
from fewshot_bench.plugins.reproduce.noise import half_width, parts, spread
from tests.support.compare_records import make, read_csv, run_compare, save
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill

TOP1 = {("coop", 1): 23.92, ("coop", 2): 38.98, ("tip", 1): 22.0, ("tip", 2): 30.0}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    records = [make(name, seed=seed, top1=value) for (name, seed), value in TOP1.items()]
    return save(tmp_path / "store", records)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_the_interval_needs_three_values(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert (found.half is None) == (len(values) < 3)
    assert ("±" in found.around()) == (len(values) > 2)
    if len(values) == 2:
        assert found.bounds == (min(values), max(values))


def test_a_paired_test_of_two_seeds_has_no_interval_to_show() -> None:
    ours = {"dtd": [[1.0, 1, 1, 0], [1, 1, 0, 0]]}
    theirs = {"dtd": [[1.0, 0, 0, 0], [0, 0, 0, 1]]}
    assert not compare_paired(ours, theirs).bounded
    more = {name: [*runs, [0.0, 1, 1, 1]] for name, runs in ours.items()}
    fewer = {name: [*runs, [0.0, 0, 1, 1]] for name, runs in theirs.items()}
    assert compare_paired(more, fewer).bounded


def test_noise_from_two_seeds_is_not_known_for_one_cell() -> None:
    cell = parts(spread([23.9, 39.0]), spread([]), 1000, 1, random=True)
    assert half_width([cell]) is None
    assert half_width([cell] * 3) is not None
    assert half_width([parts(spread([50.0, 51, 52]), spread([]), 1000, 1, random=True)]) is not None


def test_equal_means_of_other_values_share_the_best_place() -> None:
    """Both are 91.075, although the float sums differ in the last bit."""
    values = {"coop": (91.06, 91.09), "tip": (91.10, 91.05)}
    records = [
        make(name, seed=seed, top1=value)
        for name, pair in values.items()
        for seed, value in enumerate(pair, 1)
    ]
    assert len({sum(pair) / 2 for pair in values.values()}) == 2
    grid = next(full(build(records)))
    entries = [line.entries[0] for line in grid.lines]
    assert len({(entry.text, entry.rank) for entry in entries}) == 1
    assert entries[0].rank == 1


def test_an_unbounded_interval_is_not_in_the_file(tmp_path: Path) -> None:
    fill(tmp_path, datasets=1, methods=2, shots=(1,), seeds=(1, 2), queries=60, classes=3)
    words = ("compare", "--store", tmp_path, "--baseline", "linear-probe", "--format", "json")
    for one in json.loads(fsbench(*words).out)["meta"]["standings"]:
        assert one["low"] is None
        assert one["high"] is None


def test_zero_has_no_sign(tmp_path: Path) -> None:
    """Seconds are rounded differences of sums, and so may be just below zero."""
    timed = [
        dataclasses.replace(make(seed=seed, top1=top1), timings={"billed_seconds": -0.0004})
        for seed, top1 in ((1, -0.0), (2, 4.0))
    ]
    store = save(tmp_path / "store", timed)
    assert "-0" not in run_compare("--store", store, "--columns", "billed").output
    row = read_csv(run_compare("--store", store, "--format", "csv").output)[0]
    assert (row["top1_min"], row["billed_seconds"]) == ("0.0", "-0.0004")
