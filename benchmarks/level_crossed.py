"""Level of the comparison when several training seeds share a support set, by simulation.

    python -m benchmarks.level_crossed [--benchmarks 2000] [--without-runs]
    python -m benchmarks.level_crossed --intervals [--benchmarks 10000]

An image is a hit if a sum of normals exceeds 0: its difficulty for both methods and for one, the
effects of a support set, of a training seed (the same one on every support set) and of a single
run on a method, and a rest. Both methods are drawn alike, so each p < 0.05 is a false positive.
`--without-runs` wrongly treats all runs as independent. `--intervals` measures how often the 95 %
interval of one method's mean covers the truth, beside that of independent runs.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.analysis.statistics.intervals import Estimate, estimate, estimate_runs
from fewshot_bench.analysis.statistics.paired import Comparison, compare_paired

IMAGES = 600
DESIGNS = ((2, 2), (2, 3), (3, 2), (3, 3))
NOISE = 0.15
KINDS = ((0.0, 0.0, 0.0), (NOISE, 0.0, 0.0), (0.0, NOISE, 0.0), (0.0, 0.0, NOISE))
"""Standard deviations of support sets, training seeds and single runs."""
NOISES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1))
"""The same for the means of `--intervals`, whose unit does not matter."""

Hits = list[NDArray[np.bool_]]


def compared(
    rng: np.random.Generator,
    datasets: int,
    design: tuple[int, int],
    noise: tuple[float, float, float],
    *,
    without_runs: bool = False,
) -> Comparison:
    """Compare two methods in one simulated benchmark without a true difference."""
    runs = list(itertools.product(range(design[0]), range(design[1])))
    ours: dict[str, Hits] = {}
    theirs: dict[str, Hits] = {}
    for name in map(str, range(datasets)):
        hard = rng.normal(0.8, 1.4, IMAGES)
        for side in (ours, theirs):
            side[name] = _hits(rng, hard, design, noise, runs)
    given = None if without_runs else dict.fromkeys(ours, runs)
    return compare_paired(ours, theirs, given)


def _hits(
    rng: np.random.Generator,
    hard: NDArray[np.float64],
    design: tuple[int, int],
    noise: tuple[float, float, float],
    runs: list[tuple[int, int]],
) -> Hits:
    own = hard + 0.5 * rng.normal(size=IMAGES)
    support = noise[0] * rng.normal(size=design[0])
    training = noise[1] * rng.normal(size=design[1])
    return [
        own + support[s] + training[t] + noise[2] * rng.normal() + 0.5 * rng.normal(size=IMAGES) > 0
        for s, t in runs
    ]


def level(count: int, datasets: int, design: tuple[int, int], kind: int, without: bool) -> float:
    """False-positive rate in percent over `count` benchmarks."""
    rng = np.random.default_rng([9, datasets, *design, *(int(100 * x) for x in KINDS[kind])])
    found = (
        compared(rng, datasets, design, KINDS[kind], without_runs=without) for _ in range(count)
    )
    return 100 * float(np.mean([each.p < 0.05 for each in found]))


def coverage(count: int, design: tuple[int, int], noise: tuple[int, int, int]) -> str:
    """Coverage in percent of both intervals over `count` means: `95.0 (62.6)`."""
    rng = np.random.default_rng([10, *design, *noise])
    covered = np.zeros(2)
    for _ in range(count):
        support = noise[0] * rng.normal(size=design[0])
        training = noise[1] * rng.normal(size=design[1])
        runs = itertools.product(range(design[0]), range(design[1]))
        values = {(s, t): support[s] + training[t] + noise[2] * rng.normal() for s, t in runs}
        covered += _covers(estimate_runs(values)), _covers(estimate(list(values.values())))
    ours, independent = 100 * covered / count
    return f"{ours:.1f} ({independent:.1f})"


def _covers(found: Estimate | None) -> bool:
    return found is not None and found.half is not None and abs(found.mean) <= found.half


def main() -> None:
    """Print a table of levels, or with `--intervals` of coverages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmarks", type=int, default=2000)
    parser.add_argument("--without-runs", action="store_true")
    parser.add_argument("--intervals", action="store_true")
    given = parser.parse_args()
    if given.intervals:
        for design in ((3, 3), (3, 5), (5, 3), (5, 5)):
            parts = [coverage(given.benchmarks, design, noise) for noise in NOISES]
            print(f"| {design[0]} x {design[1]} | {' | '.join(parts)} |", flush=True)
        return
    for design, datasets in itertools.product(DESIGNS, (1, 4, 11)):
        count = given.benchmarks if datasets < 11 else given.benchmarks // 2
        found = [level(count, datasets, design, k, given.without_runs) for k in range(len(KINDS))]
        sets = f"{datasets} data set{'s' if datasets > 1 else ''}"
        head = f"{design[0]} x {design[1]}, {sets}"
        print(f"| {head} | {' | '.join(f'{x:.1f}' for x in found)} |", flush=True)


if __name__ == "__main__":
    main()
