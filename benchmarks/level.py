"""Level and power of the paired comparison, by simulation.

    python -m benchmarks.level [--benchmarks 10000] [--only WORDS] [--seed 1] [--tail 2000000]

In simulated benchmarks, an image is a hit if a sum of normals exceeds a threshold: the image's
difficulty for both methods, its difficulty for one, the support set's effect on both, the effect of
support set and training on one method (seed noise), and a rest drawn anew for each run. Both
methods have the same expected accuracy, so each p < 0.05 is a false positive. `image bootstrap` is
how often a bootstrap over images alone finds a difference, `covers` how often the interval contains
the true difference, `finds` how often a true difference of so many points is found, which is twice
the interval's median half-width.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from fewshot_bench.analysis.statistics.freedom import combine
from fewshot_bench.analysis.statistics.paired import Comparison, Scores, compare_paired
from fewshot_bench.analysis.statistics.ranks import (
    average_ranks,
    critical_difference,
    friedman,
    signed_rank,
)

ELEVEN = (500, 170, 250, 810, 800, 250, 3000, 330, 1900, 1690, 380)
"""Test sizes in the proportions of the eleven sets, at most a tenth of the largest."""
ALPHAS = (0.05, 0.01, 0.001, 0.0001)
# No test of any freedom rejects below this at the largest of `ALPHAS`.
NORMAL_LIMIT = 1.95
HEAVY = 3
"""Degrees of freedom of Student's t for heavy-tailed differences."""
SPREADS: dict[str, tuple[float, ...]] = {
    "equal": (1.0,),
    "one 6 times as noisy": (6.0,),
    "one 30 times as noisy": (30.0,),
    "each twice the last": tuple(2.0**power for power in range(10)),
}
"""Standard deviations of the first data sets' seed means, those of the others being 1."""


@dataclass(frozen=True)
class Scenario:
    """One kind of benchmark; variances are shares of a latent variance of 1.

    images: test sizes. shared, own: image difficulty for both methods, for one. luck: of support
    sets, shared by both methods. seed_noise: of ours and of theirs; scales: factors of its standard
    deviation by data set. effects: true differences by data set in points.
    """

    name: str
    images: tuple[int, ...]
    seeds: int = 3
    accuracy: float = 0.7
    shared: float = 0.6
    own: float = 0.2
    luck: float = 0.0
    seed_noise: tuple[float, float] = (0.0, 0.0)
    scales: tuple[float, ...] = ()
    effects: tuple[float, ...] = ()

    @property
    def truth(self) -> float:
        """The difference in expected accuracy, in points."""
        return float(np.mean(self.effects)) if self.effects else 0.0


def scenarios() -> list[Scenario]:
    """The grid (seed noise or none; 1, 3 and 11 data sets; 1 to 5 seeds), and special scenarios."""
    noise: dict[str, Any] = {"seed_noise": (0.003, 0.003), "luck": 0.003}
    found = []
    for images in ((1000,), (300, 1000, 3000), ELEVEN):
        for seeds in (1, 2, 3, 5):
            name = f"{_count(len(images), 'data set')}, {_count(seeds, 'seed')}"
            found.append(Scenario(f"{name}, no seed noise", images, seeds))
            found.append(Scenario(f"{name}, seed noise", images, seeds, **noise))
    one = Scenario("1 data set", (1000,))
    eleven = Scenario("11 data sets", ELEVEN, **noise)
    cancel = (5.0, -5.0, 3.0, -3.0, 2.0, -2.0, 1.0, -1.0, 4.0, -4.0, 0.0)
    odd = (
        (one, "much seed noise", {"seed_noise": (0.03, 0.03)}),
        (one, "high accuracy", {"accuracy": 0.98}),
        (one, "rare discordance", {"shared": 0.97, "own": 0.02}),
        (one, "images not shared", {"shared": 0.0, "own": 0.0}),
        (one, "tiny test set", {"images": (60,)}),
        (eleven, "much seed noise", {"seed_noise": (0.03, 0.03)}),
        (eleven, "one of them noisy", {"scales": (6.0,) + (1.0,) * 10}),
        (eleven, "one method deterministic", {"seed_noise": (0.006, 0.0)}),
        (eleven, "high accuracy", {"accuracy": 0.98}),
        (eleven, "rare discordance", {"shared": 0.97, "own": 0.02, "luck": 0.0}),
        (eleven, "gains and losses cancel", {"effects": cancel}),
    )
    found += [replace(base, name=f"{base.name}, 3 seeds, {how}", **own) for base, how, own in odd]
    return found


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number > 1 else "")


def simulated(
    scenario: Scenario, rng: np.random.Generator
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Hits of both methods by data set, one array (images,) per seed."""
    sides: tuple[dict[str, Scores], dict[str, Scores]] = ({}, {})
    for index, images in enumerate(scenario.images):
        scale = scenario.scales[index] if scenario.scales else 1.0
        effect = scenario.effects[index] / 200 if scenario.effects else 0.0
        for side, hits in zip(sides, _hits(scenario, images, scale, effect, rng), strict=True):
            side[str(index)] = list(hits)
    return sides


def _hits(
    scenario: Scenario, images: int, scale: float, effect: float, rng: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    seeds = scenario.seeds
    both = math.sqrt(scenario.shared) * rng.standard_normal(images, dtype=np.float32)
    luck = math.sqrt(scenario.luck) * rng.standard_normal((seeds, 1), dtype=np.float32)
    rest = math.sqrt(max(0.0, 1 - scenario.shared - scenario.own))
    for noise, sign in zip(scenario.seed_noise, (1, -1), strict=True):
        latent = rest * rng.standard_normal((seeds, images), dtype=np.float32)
        latent += both + math.sqrt(scenario.own) * rng.standard_normal(images, dtype=np.float32)
        deviation = math.sqrt(noise) * scale
        latent += luck + deviation * rng.standard_normal((seeds, 1), dtype=np.float32)
        # Total latent variance: expected accuracy over all draws is the same for both methods.
        whole = math.sqrt(scenario.shared + scenario.own + rest**2 + scenario.luck + deviation**2)
        yield latent > -whole * float(special.ndtri(scenario.accuracy + sign * effect))


def compared(scenario: Scenario, benchmarks: int, seed: int) -> Iterator[Comparison]:
    """Yield one comparison per simulated benchmark."""
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    for _ in range(benchmarks):
        yield compare_paired(*simulated(scenario, rng))


def false_positives(scenario: Scenario, benchmarks: int, seed: int = 1) -> float:
    """Share of comparisons with p below 0.05."""
    return float(np.mean([each.p < 0.05 for each in compared(scenario, benchmarks, seed)]))


def tail(
    deviations: tuple[float, ...], seeds: int, heavy: bool, draws: int, seed: int = 1
) -> list[float]:
    """Share of tests over seeds alone with p below each of `ALPHAS`, for two equal methods.

    Args:
        deviations: standard deviation of the seed differences by data set.
        seeds: number of seeds of each data set.
        heavy: draw differences from Student's t with `HEAVY` degrees of freedom, else normal ones.
        draws: number of simulated benchmarks.
        seed: of the random numbers.
    """
    rng = np.random.default_rng([seed, seeds, heavy, *map(int, deviations)])
    p, left = [], draws
    while left:
        count = min(left, 100_000)
        left -= count
        shape = (count, len(deviations), seeds)
        values = rng.standard_t(HEAVY, shape) if heavy else rng.standard_normal(shape)
        values *= np.asarray(deviations)[:, None]
        parts = values.var(axis=2, ddof=1) / seeds
        ratios = np.abs(values.mean(axis=2).sum(axis=1)) / np.sqrt(parts.sum(axis=1))
        far = np.flatnonzero(ratios > NORMAL_LIMIT)
        few = [seeds - 1] * len(deviations)
        freedoms = np.array([combine(own, few, 0.0, 0.0) for own in parts[far].tolist()])
        p.append(2 * special.stdtr(freedoms, -ratios[far]))
    return [float((np.concatenate(p) < alpha).sum() / draws) for alpha in ALPHAS]


def tail_lines(draws: int, seed: int) -> Iterator[str]:
    """Yield the rows of the table of tests over seeds alone."""
    for sets, seeds in itertools.product((2, 3, 11), (2, 3, 5)):
        for (name, first), heavy in itertools.product(SPREADS.items(), (False, True)):
            deviations = (*first, *(1.0,) * sets)[:sets]
            found = tail(deviations, seeds, heavy, draws, seed)
            ratios = (share / alpha for share, alpha in zip(found, ALPHAS, strict=True))
            kind = f"{sets} data sets, {seeds} seeds, {name}, {'heavy' if heavy else 'normal'}"
            yield f"| {kind} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def image_bootstrap(comparison: Comparison) -> bool:
    """True if a bootstrap over images alone, with seeds taken as fixed, finds a difference."""
    spreads = comparison.spreads.values()
    variances = [(s.image + s.interaction / s.seeds) / s.images for s in spreads]
    error = math.sqrt(max(0.0, math.fsum(variances))) / len(variances)
    return abs(comparison.difference) > 1.959964 * error


def shifted(scenario: Scenario, points: float) -> Scenario | None:
    """The scenario with one method better by `points`; None if accuracy would exceed 99.5 %."""
    effects = scenario.effects or (0.0,) * len(scenario.images)
    more = tuple(points + effect for effect in effects)
    if scenario.accuracy + max(more) / 200 > 0.995:
        return None
    return replace(scenario, effects=more)


def line(scenario: Scenario, benchmarks: int, seed: int) -> str:
    """Table row: level, level of the image bootstrap, coverage, interval half-width, power."""
    found = list(compared(scenario, benchmarks, seed))
    truth = scenario.truth
    level = 100 * np.mean([each.p < 0.05 for each in found])
    naive = 100 * np.mean([image_bootstrap(each) for each in found])
    covers = 100 * np.mean([each.low <= truth <= each.high for each in found])
    half = float(np.median([(each.high - each.low) / 2 for each in found]))
    better = shifted(scenario, 2 * half)
    shown = "-"
    if better:
        power = 100 * false_positives(better, max(1, benchmarks // 10), seed)
        shown = f"{power:.0f} % of {2 * half:.1f}"
    return f"| {scenario.name} | {level:.1f} | {naive:.1f} | {covers:.1f} | {half:.2f} | {shown} |"


def rank_line(datasets: int, methods: int, benchmarks: int, seed: int) -> str:
    """Table row: levels of the rank tests, for independent normal scores."""
    rng = np.random.default_rng([seed, datasets, methods])
    gap = critical_difference(methods, datasets)
    counts = np.zeros(3)
    for _ in range(benchmarks):
        scores = rng.normal(size=(datasets, methods))
        told = np.ptp(average_ranks(scores)) > gap
        signed = signed_rank(scores[:, 0] - scores[:, 1]) < 0.05
        counts += np.array([friedman(scores)[1] < 0.05, told, signed], float)
    shown = " | ".join(f"{share:.1f}" for share in 100 * counts / benchmarks)
    return f"| {datasets} data sets, {methods} methods | {shown} |"


def main() -> None:
    """Simulate and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=10_000)
    parser.add_argument("--only", default="", help="scenarios with these words in their name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tail", type=int, default=2_000_000)
    asked = parser.parse_args()
    error = 100 * math.sqrt(0.05 * 0.95 / asked.benchmarks)
    print(f"{asked.benchmarks} benchmarks each; 5 % has a standard error of {error:.2f}\n")
    print("| scenario | p < 0.05, % | image bootstrap, % | covers, % | half-width | finds |")
    print("|---|---:|---:|---:|---:|---:|")
    for scenario in scenarios():
        if asked.only in scenario.name:
            print(line(scenario, asked.benchmarks, asked.seed), flush=True)
    if asked.only:
        return
    print("\n| seeds alone | " + " | ".join(f"{alpha:g}" for alpha in ALPHAS) + " |")
    print("|---|" + "---:|" * len(ALPHAS))
    for row in tail_lines(asked.tail, asked.seed):
        print(row, flush=True)
    print("\n| rank tests | Friedman, % | Nemenyi, any pair, % | signed rank, % |")
    print("|---|---:|---:|---:|")
    for datasets, methods in itertools.product((3, 5, 11), (3, 6)):
        print(rank_line(datasets, methods, asked.benchmarks, asked.seed), flush=True)


if __name__ == "__main__":
    main()
