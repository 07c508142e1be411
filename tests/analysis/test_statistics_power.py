"""Minimum detectable effects against statsmodels and simulation; variance components."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower

from benchmarks.level import Scenario, compared, false_positives
from benchmarks.power import planned_power
from fewshot_bench.analysis.statistics.paired import compare_paired
from fewshot_bench.analysis.statistics.power import detectable, noncentrality, planned_error
from fewshot_bench.analysis.statistics.variance import components, sampling_variance
from fewshot_bench.utils.errors import UsageError
from tests.support.helpers import REPOSITORY

EXACT = {"rel": 1e-9, "abs": 1e-9}


@pytest.mark.parametrize("freedom", [4, 4.5, 5, 17.3, 400])
@pytest.mark.parametrize(("level", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_noncentrality_gives_the_power_that_statsmodels_says(
    freedom: float, level: float, power: float
) -> None:
    shift = noncentrality(freedom, level=level, power=power)
    oracle = TTestPower().power(shift, nobs=1, alpha=level, df=freedom)
    assert oracle == pytest.approx(power, **EXACT)


@pytest.mark.parametrize("freedom", [1, 1.3, 2.5, 3.5, 1000])
def test_noncentrality_where_scipys_distribution_may_answer_nan(freedom: float) -> None:
    shift, limit = noncentrality(freedom, level=0.01, power=0.9), stats.t.isf(0.005, freedom)
    rng = np.random.default_rng(0)
    t = (rng.normal(size=400_000) + shift) / np.sqrt(rng.chisquare(freedom, 400_000) / freedom)
    assert np.mean(np.abs(t) > limit) == pytest.approx(0.9, abs=0.002)


def test_noncentrality_of_many_degrees_is_the_normal_one() -> None:
    z = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    assert noncentrality(1e9) == pytest.approx(z, abs=1e-5)
    assert noncentrality(1e5) == pytest.approx(z, abs=1e-3)


def test_detectable_of_seeds_alone_is_the_one_sample_t_tests() -> None:
    gains = [0.02, 0.03, 0.01, 0.05]
    sides = {"a": [np.full(50, gain) for gain in gains]}, {"a": [np.zeros(50)] * 4}
    found = compare_paired(*sides)
    deviation = 100 * np.std(gains, ddof=1)
    for seeds in (4, 9):
        error, freedom = planned_error(found.spreads, seeds=seeds)
        effect = TTestPower().solve_power(nobs=seeds, alpha=0.05, power=0.8)
        known = error * noncentrality(freedom)
        assert known == pytest.approx(effect * deviation, rel=1e-6)  # its solver stops there
        # The variance of four seeds is an estimate with three degrees of freedom.
        shift = noncentrality(seeds - 1, estimated=3)
        planned = detectable(found.spreads, seeds=seeds)
        assert planned == pytest.approx(error * shift, rel=1e-6)
        assert planned > known


def test_detectable_differences_are_found_four_times_in_five() -> None:
    scenario = Scenario("power", (400, 900), seeds=5, seed_noise=(0.004, 0.004))
    spreads = [each.spreads for each in compared(scenario, 300, seed=1)]
    truth = {
        name: dataclasses.replace(
            spreads[0][name],
            seed=float(np.mean([each[name].seed for each in spreads])),
            image=float(np.mean([each[name].image for each in spreads])),
            interaction=float(np.mean([each[name].interaction for each in spreads])),
        )
        for name in spreads[0]
    }
    error, freedom = planned_error(truth)
    points = error * noncentrality(freedom)
    better = dataclasses.replace(scenario, effects=(points, points))
    # The test estimates the seed variance, which costs some power at few degrees of freedom.
    assert false_positives(better, 400, seed=2) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(("freedom", "estimated"), [(1, 1), (2, 2), (2.5, 8), (9, 2), (40, 40)])
def test_power_is_kept_on_average_over_estimates_of_the_error(
    freedom: float, estimated: float
) -> None:
    shift, limit = noncentrality(freedom, estimated=estimated), stats.t.isf(0.025, freedom)
    rng = np.random.default_rng(0)
    planned, tested = (np.sqrt(rng.chisquare(f, 400_000) / f) for f in (estimated, freedom))
    found = np.abs(shift * planned + rng.normal(size=400_000)) > limit * tested
    assert found.mean() == pytest.approx(0.8, abs=0.003)


def test_printed_differences_are_found_four_times_in_five_with_few_seeds() -> None:
    # With three seeds on one data set; a plan with the variance taken as known would have 64 %.
    scenario = Scenario("power", (600,), seeds=3, seed_noise=(0.03, 0.03))
    assert planned_power(scenario, 300, seed=1) == pytest.approx(0.8, abs=0.06)


def test_more_seeds_and_images_show_smaller_differences() -> None:
    (found,) = compared(Scenario("plan", (300,), seed_noise=(0.02, 0.02)), 1, seed=3)
    now = detectable(found.spreads)
    assert detectable(found.spreads, seeds=3, images=300) == pytest.approx(now)
    assert detectable(found.spreads, seeds=10) < now / 2
    assert detectable(found.spreads, images=10**6) < now
    assert detectable(found.spreads, power=0.9) > now > detectable(found.spreads, level=0.1)
    (one,) = found.spreads.values()
    error, freedom = planned_error(found.spreads, seeds=1)
    assert error == pytest.approx(((one.image + one.interaction) / 300) ** 0.5)
    assert freedom == pytest.approx(299)


def test_plans_that_the_data_cannot_carry_are_refused() -> None:
    (one,) = compared(Scenario("one", (300,), seeds=1), 1, seed=3)
    shift = noncentrality(299, estimated=299)
    assert detectable(one.spreads) == pytest.approx(one.error * shift, rel=1e-6)
    with pytest.raises(UsageError, match="say how much seeds differ"):
        detectable(one.spreads, seeds=3)
    with pytest.raises(UsageError, match="expected at least 1 and 2"):
        detectable(one.spreads, images=1)
    with pytest.raises(UsageError, match="no variances"):
        detectable({})
    with pytest.raises(UsageError, match="0 < level < power < 1"):
        detectable(one.spreads, power=1.0)


@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 10**6))
def test_components_are_those_of_statsmodels_mean_squares(
    rows: int, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    table = 70 + 2 * rng.normal(size=(rows, 1)) + rng.normal(size=(1, columns))
    table = table + 0.8 * rng.normal(size=(rows, columns))
    pairs = list(itertools.product(range(rows), range(columns)))
    long = pd.DataFrame([(r, c, table[r, c]) for r, c in pairs], columns=["split", "train", "y"])
    squares = anova_lm(ols("y ~ C(split) + C(train)", long).fit())["mean_sq"]
    support = (squares["C(split)"] - squares["Residual"]) / columns
    training = (squares["C(train)"] - squares["Residual"]) / rows
    found = components({pair: float(table[pair]) for pair in pairs}, 0.5)
    assert found.support == pytest.approx(max(0, support), **EXACT)
    assert found.training == pytest.approx(max(0, training), **EXACT)
    assert found.residual == pytest.approx(squares["Residual"], **EXACT)
    assert found.sampling == 0.5
    negative = [("support", support), ("training", training)]
    assert found.clipped == tuple(name for name, value in negative if value < 0)
    assert found.freedoms == (rows - 1, columns - 1, (rows - 1) * (columns - 1))


def test_components_are_found_again_in_simulation() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        table = 3 * rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 5)) + rng.normal(size=(5, 5))
        values = {(r, c): float(table[r, c]) for r in range(5) for c in range(5)}
        each = components(values, 0.0)
        found.append((each.support, each.training, each.residual))
    assert np.mean(found, axis=0) == pytest.approx([9, 4, 1], rel=0.12)


def test_sampling_of_one_run_is_the_binomial_variance_and_of_several_what_they_share() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random(2000) < 0.8).astype(float)
    rate = hits.mean()
    assert sampling_variance([hits]) == pytest.approx(1e4 * rate * (1 - rate) / 1999)
    assert sampling_variance([hits] * 3) == pytest.approx(sampling_variance([hits]))
    apart = [(rng.random(2000) < 0.8).astype(float) for _ in range(3)]
    assert abs(sampling_variance(apart)) < 0.1 * sampling_variance([hits])


def test_components_need_both_seeds_crossed_without_gaps() -> None:
    values = {(s, t): 70.0 for s in range(3) for t in range(3)}
    found = components(values, 1.0)
    assert (found.support, found.training, found.residual, found.sampling) == (0, 0, 0, 1)
    with pytest.raises(UsageError, match=r"no score for split seed/training seed 2/1:"):
        components({pair: v for pair, v in values.items() if pair != (2, 1)}, 1.0)
    with pytest.raises(UsageError, match="1 split seeds and 3 training seeds"):
        components({pair: v for pair, v in values.items() if pair[0] == 0}, 1.0)
    with pytest.raises(UsageError, match="0 split seeds"):
        components({}, 1.0)
    with pytest.raises(UsageError, match="not all finite"):
        components(values | {(1, 1): float("nan")}, 1.0)
    # Equal split and training seeds, the default, form a diagonal, not a crossed design.
    with pytest.raises(UsageError, match="and 1 more"):
        components({(s, s): 70.0 for s in range(3)}, 1.0)


def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs" / "explanation" / "statistics.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    assert re.search(r"points, .* p = 0\.\d+\nunder \d+\.\d points can't", capsys.readouterr().out)
