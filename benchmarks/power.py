"""Power at which the printed minimum detectable difference is found in a new comparison.

    python -m benchmarks.power [--benchmarks 1000] [--only WORDS] [--seed 1]

In the simulated benchmarks of `benchmarks.level`, both methods are equally good; each benchmark
gives a `detectable` difference from its own estimated variances. New benchmarks of the same kind
with that true difference show how often it is found: on average in 80 % if the numbers are right.
`known` is the same for a plan that takes the estimated variances as the true ones, `truly` the
difference that is found in 80 % of the benchmarks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.level import Scenario, compared, false_positives, scenarios, shifted
from fewshot_bench.analysis.statistics.power import detectable, noncentrality, planned_error

STEPS = 9
POWER = 0.8


class Curve:
    """Power of a scenario as a function of the true difference, from new benchmarks."""

    def __init__(self, scenario: Scenario, largest: float, benchmarks: int, seed: int) -> None:
        found = []
        for points in largest * np.linspace(0, 1, STEPS) ** 1.5:
            better = shifted(scenario, float(points))
            if better:
                found.append((float(points), false_positives(better, benchmarks, seed)))
        self.points, self.power = np.array(found).T

    def mean(self, differences: Sequence[float]) -> float:
        """Mean power over these true differences, in points."""
        return float(np.interp(differences, self.points, self.power).mean())

    @property
    def truly(self) -> float:
        """The difference found with a power of 80 %."""
        return float(np.interp(POWER, np.maximum.accumulate(self.power), self.points))


def plans(
    scenario: Scenario, benchmarks: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Printed differences (benchmarks,), and those with the variances taken as known."""
    found = []
    for each in compared(scenario, benchmarks, seed):
        error, freedom = planned_error(each.spreads)
        found.append((detectable(each.spreads), error * noncentrality(freedom)))
    printed, known = np.array(found).T
    return printed, known


def planned_power(scenario: Scenario, benchmarks: int, seed: int = 1) -> float:
    """Mean power at the printed differences."""
    printed, _ = plans(scenario, benchmarks, seed)
    curve = Curve(scenario, float(np.quantile(printed, 0.9)), benchmarks, seed + 1)
    return curve.mean(list(printed))


def line(scenario: Scenario, benchmarks: int, seed: int) -> str:
    """Table row of a scenario."""
    printed, known = plans(scenario, benchmarks, seed)
    curve = Curve(scenario, float(np.quantile(printed, 0.9)), benchmarks, seed + 1)
    values = [
        f"{np.median(printed):.1f}",
        f"{100 * curve.mean(list(printed)):.0f}",
        f"{100 * curve.mean(list(known)):.0f}",
        f"{curve.truly:.1f}",
    ]
    return f"| {scenario.name} | {' | '.join(values)} |"


def main() -> None:
    """Simulate and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--benchmarks", type=int, default=1000)
    parser.add_argument("--only", default="", help="scenarios with these words in their name")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| scenario | printed, points | power, % | known, % | truly, points |")
    print("|---|---:|---:|---:|---:|")
    for scenario in scenarios():
        if scenario.seeds > 1 and asked.only in scenario.name and not scenario.effects:
            print(line(scenario, asked.benchmarks, asked.seed), flush=True)


if __name__ == "__main__":
    main()
