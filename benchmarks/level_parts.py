"""Level of the paired comparison for normal components of all proportions, by number of seeds.

    python -m benchmarks.level_parts [--draws 4000]

`benchmarks.level` simulates whole benchmarks at a few proportions of seed noise and image noise;
this searches for the worst proportion. The seed component is a given share of a mean difference's
variance, spread over data sets in given proportions; the false-positive rate is averaged over draws
of the estimated seed variances and exact given them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from scipy import special

from fewshot_bench.analysis.statistics.freedom import combine

SHARES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
TEN = (1.0,) * 10
PROPORTIONS: dict[str, tuple[float, ...]] = {
    "1 data set": (1.0,),
    "2, equal": (1.0, 1.0),
    "2, one 10 times": (10.0, 1.0),
    "3, equal": (1.0, 1.0, 1.0),
    "3, one 8 times": (8.0, 1.0, 1.0),
    "3, one 30 times": (30.0, 1.0, 1.0),
    "11, equal": (1.0, *TEN),
    "11, three 8 times": (8.0, 8.0, 8.0, *TEN[:8]),
    "11, one 20 times": (20.0, *TEN),
    "11, one 50 times": (50.0, *TEN),
    "11, one 200 times": (200.0, *TEN),
}
"""Data sets and by how much the seed variance of some of them is larger."""


def levels(proportions: Sequence[float], seeds: int, draws: int) -> list[float]:
    """False-positive rate in percent at level 5 %, for each share of seed variance."""
    weights = np.asarray(proportions) / np.sum(proportions)
    degrees = seeds - 1
    rng = np.random.default_rng([seeds, len(weights), int(max(proportions))])
    parts = weights * rng.chisquare(degrees, (draws, len(weights))) / degrees
    freedoms = [degrees] * len(weights)
    found = []
    for share in SHARES:
        seed, image = share * parts.sum(axis=1), 1 - share
        whole = [combine(row, freedoms, image, 0.0) for row in (share * parts).tolist()]
        limits = special.stdtrit(np.array(whole), 0.975) * np.sqrt(seed + image)
        found.append(float(100 * (2 * special.ndtr(-limits)).mean()))
    return found


def main() -> None:
    """Print the lowest and highest level over shares, by proportions and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    counts = (2, 3, 4, 5, 10)
    print("| seed variance of data sets | " + " | ".join(f"{n} seeds" for n in counts) + " |")
    print("|---|" + "---:|" * len(counts))
    for name, proportions in PROPORTIONS.items():
        found = [levels(proportions, seeds, draws) for seeds in counts]
        shown = " | ".join(f"{min(each):.1f} to {max(each):.1f}" for each in found)
        print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
