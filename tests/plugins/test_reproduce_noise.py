"""The noise that `fsbench reproduce` expects: its formula, and its level on real re-runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.reproduce.noise import Parts, Spread, binomial, half_width, parts, spread
from fewshot_bench.plugins.reproduce.numbers import AVERAGE, numbers


def test_one_cell_is_students_interval_of_a_difference() -> None:
    values = [70.0, 71.5, 69.2]
    sd = float(np.std(values, ddof=1))
    made = parts(spread(values), Spread(3, None), 10**12, 9, random=True)
    expected = stats.t.ppf(0.975, 2) * sd * math.sqrt(2 / 3)
    assert half_width([made]) == pytest.approx(expected, rel=1e-6)


def test_a_printed_standard_deviation_is_pooled() -> None:
    made = parts(Spread(3, 1.0), Spread(5, 2.0), 10**12, 9, random=True)
    pooled = math.sqrt((2 * 1 + 4 * 4) / 6)
    expected = stats.t.ppf(0.975, 6) * pooled * math.sqrt(1 / 3 + 1 / 5)
    assert half_width([made]) == pytest.approx(expected, rel=1e-6)


def test_a_mean_over_sets_has_welchs_degrees_of_freedom() -> None:
    cells = [Parts(v, 2, 0.0, 0.0) for v in (0.5, 0.5, 0.5)]
    expected = stats.t.ppf(0.975, 6) * math.sqrt(1.5) / 3
    assert half_width(cells) == pytest.approx(expected, rel=1e-6)
    one_is_large = [Parts(9.0, 2, 0.0, 0.0), Parts(0.01, 2, 0.0, 0.0)]
    assert half_width(one_is_large) == pytest.approx(
        stats.t.ppf(0.975, 2) * math.sqrt(9.01) / 2, rel=1e-6
    )


def test_what_is_not_known_is_not_taken_for_zero() -> None:
    one = parts(Spread(1, None), Spread(3, None), 1000, 1, random=True)
    assert one.seeds is None
    assert half_width([one]) is None
    assert half_width([]) is None
    fixed = parts(Spread(1, None), Spread(1, None), 1000, 1, random=False)
    assert half_width([one, fixed]) is None


def test_fixed_methods_have_rounding_and_undecided_images_alone() -> None:
    fixed = parts(Spread(1, None), Spread(1, None), 10_000, 1, random=False)
    assert half_width([fixed]) == pytest.approx(
        1.959964 * math.sqrt(0.01 * 1e4 / 1e4 + 0.05**2 / 3)
    )
    assert binomial(50.0, 100) == pytest.approx(100 * 1.959964 * 0.05)


def test_independent_reruns_differ_as_often_as_the_noise_says() -> None:
    """150 cells of CLIP-LoRA rerun by others (3 seeds, with standard deviations)."""
    paper = {
        (n.backbone, n.dataset, n.shots): n
        for table in ("table3", "table4", "table5")
        for n in numbers(source="clip-lora", table=table, method="clip-lora")
        if n.dataset != AVERAGE
    }
    reruns = numbers(source="tuw", table="tables3-5")
    beyond = 0
    for run in reruns:
        printed = paper[run.backbone, run.dataset, run.shots]
        images = registry().dataset(run.dataset).card().expected_counts["test"]
        made = parts(Spread(3, run.sd), Spread(3, None), images, printed.decimals, random=True)
        noise = half_width([made])
        assert noise is not None
        beyond += abs(run.value - printed.value) > noise
    assert len(reruns) == 150
    # 5 % are expected to exceed it by chance; here 2 do.
    assert beyond <= 0.05 * len(reruns)


def test_the_level_holds_in_simulation() -> None:
    """Two runs with equal expectation over 3 seeds each: about 5 % of the differences exceed it."""
    rng = np.random.default_rng(0)
    trials, beyond, images = 4000, 0, 10**9
    for _ in range(trials):
        ours, theirs = rng.normal(70, 1.0, (2, 3))
        made = parts(spread(list(ours)), Spread(3, None), images, 6, random=True)
        noise = half_width([made])
        assert noise is not None
        beyond += abs(ours.mean() - theirs.mean()) > noise
    assert 0.04 < beyond / trials < 0.06
