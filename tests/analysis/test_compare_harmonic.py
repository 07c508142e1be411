"""Differences in the harmonic mean of base and new classes are tested; a smaller family is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fewshot_bench.analysis.statistics.harmonic import spread_harmonic
from fewshot_bench.analysis.statistics.paired import Comparison, compare_spreads
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.compare_records import make
from tests.support.helpers import fsbench

SIZES = {"dtd": {"base": 300, "new": 120}, "pets": {"base": 80, "new": 200}}
GAINS = {"zero-shot": 0.0, "coop": 0.2, "maple": 0.0}
RUNS = [(seed, seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    opened, rng = Store(folder), np.random.default_rng(5)
    for name, halves in SIZES.items():
        for part, count in halves.items():
            hard = rng.random(count)
            for method, gain in GAINS.items():
                for seed, _ in RUNS:
                    level = 0.55 + gain + 0.002 * rng.standard_normal()
                    hit = hard + 0.05 * rng.standard_normal(count) < level
                    logits = np.eye(2)[(~hit).astype(int)]
                    record = make(method, name, 4, seed, classes=part, top1=100 * hit.mean())
                    put_answers(opened, record, logits, np.zeros(count), map(str, range(count)))
    return folder


def test_a_difference_in_h_has_a_p_and_a_star(store: Path) -> None:
    words = ("compare", "--store", store, "--baseline", "zero-shot")
    document = json.loads(fsbench(*words, "--format", "json").out)
    rows = {(row["dataset"], row["method"]): row for row in document["rows"]}
    for place in ("dtd (H)", "pets (H)", "average (H)"):
        for method in ("coop", "maple"):
            row = rows[place, method]
            # The delta method is exact for the difference itself.
            assert row["test_difference"] == pytest.approx(row["delta_mean"], abs=1e-4)
            half = (row["test_high"] - row["test_low"]) / 2
            assert row["delta_ci95"] == pytest.approx(half, abs=1e-4)
            assert (row["test_p"] < 0.05) == (half < abs(row["delta_mean"]))
        assert rows[place, "coop"]["test_p_holm"] < 0.05
    # Families: two methods on two data sets, and two methods on the average.
    single = [rows[place, "coop"]["test_p"] for place in ("dtd (H)", "pets (H)")]
    assert rows["dtd (H)", "coop"]["test_p_holm"] >= min(1, 3 * single[0])
    average = rows["average (H)", "coop"]
    assert average["test_p_holm"] == pytest.approx(2 * average["test_p"])
    assert rows["dtd (new)", "coop"]["test_p"] is None
    shown = " ".join(fsbench(*words, "--layout", "paper").out.split())
    assert "* p < 0.05 (of base and new, only H is tested)" in shown
    assert "*" in shown.partition("differences")[2].partition("p < 0.05")[2]


def hits(rng: np.random.Generator, sizes: tuple[int, ...], noise: float) -> list[NDArray[np.bool_]]:
    levels = 0.7 + noise * rng.standard_normal((3, 1))
    return [rng.random((3, size)) < levels for size in sizes]


def compared(rng: np.random.Generator, noise: float) -> tuple[Comparison, NDArray[np.float64]]:
    """Two equal methods on three data sets, and the difference in H of each seed."""
    sizes = {name: (120 + 40 * place, 60) for place, name in enumerate("abc")}
    sides = [{name: hits(rng, own, noise) for name, own in sizes.items()} for _ in range(2)]
    units = {name: [[None, None]] * 3 for name in sizes}
    result = compare_spreads(spread_harmonic(sides[0], sides[1], RUNS, units))
    base, new = (
        np.array([[part[k].mean(axis=1) for part in side.values()] for side in sides]).mean(axis=1)
        for k in (0, 1)
    )
    ours, theirs = 2 * base * new / (base + new)
    return result, 100 * (ours - theirs)


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_test_of_h_holds_its_level(noise: float) -> None:
    rng = np.random.default_rng(3)
    count, rejected = 600, 0
    for _ in range(count):
        result, differences = compared(rng, noise)
        assert result.difference == pytest.approx(differences.mean())
        rejected += result.p < 0.05
    assert stats.binom.sf(rejected - 1, count, 0.06) > 5e-4
    assert stats.binom.cdf(rejected, count, 0.01) > 5e-4


def test_halves_that_were_answered_together_leave_the_seeds() -> None:
    rng = np.random.default_rng(4)
    sides = [{"a": hits(rng, (200, 80), 0.1)} for _ in range(2)]
    together = {"a": [[np.zeros(200, int), np.zeros(80, int)]] * 3}
    result = compare_spreads(spread_harmonic(sides[0], sides[1], RUNS, together))
    means = [np.array([half.mean(axis=1) for half in side["a"]]) for side in sides]
    ours, theirs = (2 * base * new / (base + new) for base, new in means)
    assert result.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)


def test_a_choice_of_methods_that_makes_the_family_smaller_is_said(store: Path) -> None:
    words = ("compare", "--store", store, "--baseline", "zero-shot")
    said = "1 method of the store not shown and not counted as tested"
    assert said in " ".join(fsbench(*words, "-m", "zero-shot,coop").out.split())
    assert said not in " ".join(fsbench(*words).out.split())
    assert said not in " ".join(fsbench(*words[:-2], "-m", "zero-shot,coop").out.split())
    all_of_them = ("-m", "zero-shot,coop,maple", "-d", "dtd")
    assert said not in " ".join(fsbench(*words, *all_of_them).out.split())


def test_a_caption_of_ones_own_leaves_what_marks_mean(store: Path) -> None:
    words = ("compare", "--store", store, "--baseline", "zero-shot", "--format", "latex")
    for layout in ("paper", "compact", "full"):
        text = fsbench(*words, "--layout", layout, "--caption", "Ours.").out
        lines = [line for line in text.splitlines() if not line.startswith("%")]
        (*_, said) = [line for line in lines if "p \\textless{} 0.05" in line or "p < 0.05" in line]
        assert "zero-shot" in said, layout
        assert "Holm's correction" in said.replace("{}", "").replace("\\textquotesingle", "'")
