"""Several training seeds on one support set do not count as independent draws in the tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.analysis.filters import select
from fewshot_bench.analysis.statistics.intervals import Estimate, estimate, estimate_runs
from fewshot_bench.analysis.statistics.paired import compare_paired
from fewshot_bench.analysis.table.build import build
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.support.answers import stored_arrays
from tests.support.compare_records import CROSSED, SPLITS, TRAINS, Run, fill_crossed, make
from tests.support.helpers import fsbench


def compared(store: Path) -> Any:
    done = fsbench("compare", "--store", store, "--baseline", "linear-probe", "--format", "json")
    assert done.code == 0, done
    return json.loads(done.out)


def hits(store: Path, method: str) -> dict[Run, np.ndarray]:
    opened, found = Store(store), {}
    for record in opened.records():
        if record.spec.method == method:
            arrays = stored_arrays(opened, record.spec.key())
            right = arrays["predictions"] == arrays["labels"]
            found[record.spec.split_seed, record.spec.train_seed] = right.astype(float)
    return found


def test_crossed_runs_are_chosen_by_support_set_then_training_seed(tmp_path: Path) -> None:
    fill_crossed(tmp_path, CROSSED)
    found = select(list(Store(tmp_path).records()), {"seeds": "2,3/1"})
    assert {(one.spec.split_seed, one.spec.train_seed) for one in found} == {(2, 2), (3, 1)}


def test_support_sets_are_the_seeds_of_the_test(tmp_path: Path) -> None:
    """Computed by hand: a two-way table of support sets by images, plus the training-seed part."""
    fill_crossed(tmp_path, CROSSED)
    document = compared(tmp_path)
    (row,) = [r for r in document["rows"] if (r["dataset"], r["method"]) == ("dtd", "coop")]
    ours, theirs = hits(tmp_path, "coop"), hits(tmp_path, "linear-probe")
    gaps = np.array([[100 * (ours[s, t] - theirs[s, t]) for t in TRAINS] for s in SPLITS])
    mean, by_split = gaps.mean(), gaps.mean(axis=(1, 2))
    table = gaps.mean(axis=1)
    rest = table - by_split[:, None] - table.mean(axis=0) + mean
    square = (rest**2).sum() / (2 * 119)
    image = 3 * table.mean(axis=0).var(ddof=1) - square
    means = gaps.mean(axis=2)
    residual = means - means.mean(axis=0) - means.mean(axis=1)[:, None] + mean
    training = (3 * means.mean(axis=0).var(ddof=1) - (residual**2).sum() / 2) / (3 * 2)
    variance = by_split.var(ddof=1) / 3 + max(0, training) + max(0, image / (3 * 120))
    assert row["test_difference"] == pytest.approx(mean, abs=1e-6)
    assert row["test_seeds"] == 3
    # All logits are there, and all runs are in the three draws.
    assert not any("fewer seeds" in note for note in document["meta"]["notes"])
    (found,) = document["meta"]["standings"]
    expected = compare_paired(
        {"": list(ours.values())}, {"": [theirs[r] for r in ours]}, {"": [*ours]}
    )
    assert expected.error**2 == pytest.approx(variance)
    for name in ("difference", "low", "high", "p"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=1e-9)
    half = stats.t.ppf(0.975, expected.freedom) * np.sqrt(variance)
    assert found["high"] - found["difference"] == pytest.approx(half)


def simulated(rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Two equal methods with noise from support sets and almost none from training."""
    hard, sides = rng.normal(0.8, 1.4, 300), []
    for _ in range(2):
        luck = {split: 0.25 * rng.normal() for split in SPLITS}
        rest = [rng.normal(size=300) for _ in CROSSED]
        pairs = zip(CROSSED, rest, strict=True)
        sides.append([(hard + luck[s] + noise > 0).astype(float) for (s, _), noise in pairs])
    return sides


def test_the_level_holds_for_crossed_seeds() -> None:
    rng, crossed, naive = np.random.default_rng(0), 0, 0
    for _ in range(500):
        ours, theirs = simulated(rng)
        crossed += compare_paired({"": ours}, {"": theirs}, {"": CROSSED}).p < 0.05
        naive += compare_paired({"": ours}, {"": theirs}).p < 0.05
    assert stats.binom.sf(crossed - 1, 500, 0.07) > 1e-3
    assert naive > 75


def test_runs_of_one_support_set_each_are_as_without_runs() -> None:
    ours, theirs = simulated(np.random.default_rng(1))
    plain = compare_paired({"": ours}, {"": theirs})
    for runs in (
        [(s, s) for s in range(6)],
        [(s, 1) for s in range(6)],
        [(1, t) for t in range(6)],
    ):
        assert compare_paired({"": ours}, {"": theirs}, {"": runs}) == plain
    with pytest.raises(UsageError, match="1 pairs of seeds for 6 runs"):
        compare_paired({"": ours}, {"": theirs}, {"": [(1, 1)]})


def test_notes_say_what_crossed_seeds_mean(tmp_path: Path) -> None:
    fill_crossed(tmp_path / "crossed", CROSSED)
    fill_crossed(tmp_path / "single", [(1, 1), (1, 2)])
    notes = [" ".join(compared(tmp_path / name)["meta"]["notes"]) for name in ("crossed", "single")]
    assert "intervals and tests count support sets, not runs" in notes[0]
    assert "all runs have the support set of split seed 1" in notes[1]


def test_variances_are_of_the_same_test_images(tmp_path: Path) -> None:
    fill_crossed(tmp_path, CROSSED, other_images=True)
    document = compared(tmp_path)
    found = document["meta"]["variances"]
    assert [one["components"] for one in found] == [None, None]
    assert {one["problem"] for one in found} == {"the test images differ between seeds"}
    assert "variance not split: the test images differ" in " ".join(document["meta"]["notes"])


def test_one_test_image_has_no_variance(tmp_path: Path) -> None:
    fill_crossed(tmp_path, CROSSED, queries=1)
    document = compared(tmp_path)
    assert all(found["components"] is None for found in document["meta"]["variances"])
    assert "variance not split: one test image says" in " ".join(document["meta"]["notes"])


def crossed_values(
    rng: np.random.Generator, noise: Sequence[float], trains: int
) -> dict[Run, float]:
    """Scores around 0 with noise from support sets, training seeds and single runs."""
    support, training = noise[0] * rng.normal(size=3), noise[1] * rng.normal(size=trains)
    return {
        (s + 1, t + 1): support[s] + training[t] + noise[2] * rng.normal()
        for s, t in itertools.product(range(3), range(trains))
    }


def test_the_interval_of_a_mean_counts_support_sets_and_shared_training_seeds() -> None:
    """Computed by hand from the mean squares of the two-way table."""
    values = crossed_values(np.random.default_rng(4), (1.0, 2.0, 0.3), 4)
    table = np.array([[values[s, t] for t in (1, 2, 3, 4)] for s in SPLITS])
    rest = table - table.mean(axis=0) - table.mean(axis=1)[:, None] + table.mean()
    support = table.mean(axis=1).var(ddof=1) / 3
    training = table.mean(axis=0).var(ddof=1) / 4 - (rest**2).sum() / 6 / 12
    assert training > support > 0
    found = estimate_runs(values)
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(table.mean()), 12)
    # Between the freedom of the training seeds and that of both parts together.
    halves = [stats.t.ppf(0.975, freedom) * np.sqrt(support + training) for freedom in (2, 5)]
    assert found.half is not None
    assert halves[1] < found.half < halves[0]
    alone = estimate_runs(crossed_values(np.random.default_rng(4), (1.0, 0.0, 0.0), 4))
    assert alone is not None
    assert alone.half == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(support_only(4)))


def support_only(trains: int) -> float:
    values = crossed_values(np.random.default_rng(4), (1.0, 0.0, 0.0), trains)
    return float(np.var([values[s, 1] for s in SPLITS], ddof=1) / 3)


@pytest.mark.parametrize("noise", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)])
def test_intervals_of_crossed_seeds_cover_the_truth(noise: tuple[float, float, float]) -> None:
    rng, covered, naive, count = np.random.default_rng(0), 0, 0, 1000
    for _ in range(count):
        values = crossed_values(rng, noise, 3)
        covered += covers(estimate_runs(values))
        naive += covers(estimate(list(values.values())))
    assert stats.binom.cdf(covered, count, 0.94) > 1e-3
    if noise != (0, 0, 1):
        assert naive < 0.85 * count


def covers(found: Estimate | None) -> bool:
    assert found is not None
    assert found.half is not None
    return abs(found.mean) <= found.half


@pytest.mark.parametrize(
    ("runs", "has_interval"),
    [
        (itertools.product((1, 2), (1, 2, 3)), False),
        (itertools.product((1, 2, 3), (1, 2)), False),
        ([(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)], True),
        ([run for run in itertools.product((1, 2, 3), (1, 2, 3)) if run != (2, 2)], False),
        ([(1, 1), (2, 1), (3, 1)], True),
        ([(1, 1), (1, 2), (1, 3)], True),
        ([(1, 1), (1, 2)], False),
    ],
)
def test_two_draws_of_a_kind_give_the_range(runs: Any, has_interval: bool) -> None:
    found = estimate_runs({run: float(place**2) for place, run in enumerate(runs)})
    assert found is not None
    assert (found.half is not None) == has_interval
    assert found.bounds != (found.mean, found.mean)


def test_tables_have_the_intervals_of_crossed_seeds(tmp_path: Path) -> None:
    """Of accuracies and of differences to the baseline; with two training seeds, the range."""
    fill_crossed(tmp_path / "two", CROSSED)
    nine = list(itertools.product(SPLITS, SPLITS))
    fill_crossed(tmp_path / "nine", nine)
    for name, runs in (("two", list(CROSSED)), ("nine", nine)):
        document = compared(tmp_path / name)
        rows = [row for row in document["rows"] if row["dataset"] == "dtd"]
        (row,) = [row for row in rows if row["method"] == "coop"]
        ours, theirs = (hits(tmp_path / name, each) for each in ("coop", "linear-probe"))
        scores = {run: 100 * float(ours[run].mean()) for run in runs}
        gaps = {run: scores[run] - 100 * float(theirs[run].mean()) for run in runs}
        for found, kind in ((estimate_runs(scores), "top1"), (estimate_runs(gaps), "delta")):
            assert found is not None
            assert row[f"{kind}_mean"] == pytest.approx(found.mean, abs=1e-6)
            assert row[f"{kind}_min"] == pytest.approx(found.least, abs=1e-6)
            if name == "two":
                assert row[f"{kind}_ci95"] is None
            elif kind == "delta":
                # That of the test, which is over images as well.
                half = (row["test_high"] - row["test_low"]) / 2
                assert row["delta_ci95"] == pytest.approx(half, abs=2e-6)
            else:
                assert row["top1_ci95"] == pytest.approx(found.half, abs=1e-6)
        assert ("lowest and the highest run" in " ".join(document["meta"]["notes"])) == (
            name == "two"
        )


def test_a_cell_with_one_support_set_is_named_beside_others() -> None:
    seeds = (1, 2, 3)
    one_set = [make("one-set", split_seed=1, train_seed=train) for train in seeds]
    one_training = [make("one-training", seed=split, train_seed=1) for split in seeds]
    both = [*(make("plain", seed=seed) for seed in seeds), *one_set, *one_training]
    notes = build(both).notes
    said = "for all runs of {} on dtd, 1-shot: their intervals say nothing about other {}"
    assert f"one support set {said.format('one-set', 'support sets')}" in notes
    assert f"one training seed {said.format('one-training', 'training seeds')}" in notes
    assert not any("for all runs of" in note for note in build(both[:3]).notes)
    alone = " ".join(build(one_set).notes)
    assert "all runs have the support set of split seed 1" in alone
    assert "for all runs of" not in alone
