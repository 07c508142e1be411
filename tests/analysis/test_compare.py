"""Tables: statistics, averages, missing cells, and differences to a baseline."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.analysis.statistics.intervals import estimate, quantile
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.export import rows as table_rows
from fewshot_bench.analysis.table.table import AVERAGE
from fewshot_bench.api.record import Record
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import cell, make, matrix, read_csv, written

# scipy before 1.16 rounds quantiles in the eleventh digit.
ROUNDING = 1e-10 if tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 16) else 0.0


@given(st.lists(st.floats(0, 100), min_size=3, max_size=30))
def test_interval_is_that_of_scipy(values: list[float]) -> None:
    found = estimate(values)
    assert found is not None
    assert found.half is not None
    expected = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert found.half == pytest.approx(expected, rel=ROUNDING, abs=1e-9)


@pytest.mark.parametrize("freedom", [*range(1, 40), 99, 100, 1001])
def test_quantile_is_that_of_scipy(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=max(ROUNDING, 1e-11))


def test_one_value_has_no_interval() -> None:
    assert estimate([]) is None
    found = estimate([3.0])
    assert found is not None
    assert (found.mean, found.half, found.n) == (3.0, None, 1)
    assert "50.00 n=1" in written("terminal", build([make()]))


def test_average_is_per_seed_first() -> None:
    values = {("a", 1): 10.0, ("a", 2): 20.0, ("b", 1): 30.0, ("b", 2): 60.0}
    table = build([make("m", name, 1, seed, top1) for (name, seed), top1 in values.items()])
    found = cell(table, AVERAGE, "m", 1).estimates["top1"]
    assert found == estimate([20.0, 40.0])
    assert cell(table, AVERAGE, "m", 1).status == "done"


def test_missing_is_never_averaged() -> None:
    records = [r for r in matrix() if (r.spec.method, r.spec.dataset) != ("coop", "pets")]
    table = build(records)
    assert cell(table, "pets", "coop", 1).status == "missing"
    average = cell(table, AVERAGE, "coop", 1)
    assert (average.status, average.estimates) == ("missing", {})
    assert average.reason == "no result on pets"
    assert "top1" in cell(table, AVERAGE, "zero-shot", 1).estimates
    lines = read_csv(written("csv", table))
    missing = [line for line in lines if line["n_seeds"] == "0"]
    assert {(line["dataset"], line["method"]) for line in missing} == {
        ("pets", "coop"),
        (AVERAGE, "coop"),
    }
    assert all(line["top1_mean"] == line["billed_seconds"] == "" for line in missing)
    text = written("terminal", table)
    assert "—" in text
    assert "no average of coop, 1,4-shot: no result on pets" in text
    assert "--method coop --dataset pets --shots 1,4 --seeds 1-3 --backbone test" in text


def test_average_needs_the_same_seeds_everywhere() -> None:
    table = build([r for r in matrix() if not _is(r, "coop", "pets", 1, 3)])
    average = cell(table, AVERAGE, "coop", 1)
    assert average.estimates == {}
    assert average.reason == "seeds differ: 1,2 on pets; 1,2,3 on dtd"
    assert cell(table, "pets", "coop", 1).status == "partial"
    text = written("terminal", table)
    assert "n=2" in text
    assert "cells with other seeds than 1,2,3: coop on pets, 1-shot: 1,2" in text


def _is(record: Record, method: str, dataset: str, shots: int, seed: int) -> bool:
    spec = record.spec
    return (spec.method, spec.dataset, spec.shots, spec.split_seed) == (
        method,
        dataset,
        shots,
        seed,
    )


def test_baseline_pairs_identical_splits() -> None:
    records = [make("a", seed=seed, top1=50.0 + seed * seed) for seed in (1, 2, 3)]
    records += [make("b", seed=seed, top1=40.0) for seed in (1, 2, 3)]
    table = build(records, Options(baseline="b"))
    assert cell(table, "dtd", "a", 1).delta == estimate([11.0, 14.0, 19.0])
    for text in (written("terminal", table), written("markdown", table)):
        assert "difference to b" in text
        assert "+14.67" in text
    assert "$+14.67$" in written("latex", table)
    assert read_csv(written("csv", table))[0]["delta_mean"].startswith("14.66")
    with pytest.raises(UsageError, match="did you mean 'b'"):
        build(records, Options(baseline="B"))


def test_baseline_never_pairs_other_splits() -> None:
    records = [make("a", digest="x"), make("b", digest="y", val="full")]
    table = build(records, Options(baseline="b", allow_mixed=True))
    assert cell(table, "dtd", "a val=min4", 1).delta is None
    assert "identical splits" in " ".join(table.notes)


def test_zero_shots_are_no_hole() -> None:
    table = build([make("zero-shot", shots=0), make("coop", shots=1)])
    assert table.commands == ()
    assert len(table_rows(table)) == 4
