"""Spread over seeds that is lost if all seeds use the same augmented views.

    python -m benchmarks.view_seeds [--dataset shapes] [--shots 1] [--seeds 30]

CoOp and Tip-Adapter-F use the images' own views. Every seed is run with its own views, as in
`fsbench run`, and with those of seed 0; with one support set for all seeds (`--split-seed 1`) and
with one per seed. Shown are standard deviations of top-1 over seeds, in points; the ratio's 95 %
interval is a bootstrap over the pairs of runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import nullcontext
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.images import features
from fewshot_bench.images.augment import view_key
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.runner.run import run_one
from fewshot_bench.runner.session import Session

METHODS = ("tip-adapter-f", "coop")
RESAMPLED = 10_000
_OWN_KEY = view_key


def _shared_key(digest: bytes, seed: int, number: int) -> bytes:
    return _OWN_KEY(digest, 0, number)


def top1(
    session: Session, method: str, dataset: str, shots: int, seed: int, split_seed: int | None
) -> tuple[float, float]:
    """Top-1 of one seed in percent, with shared views and with its own."""
    asked = Request((method,), (dataset,), (shots,), (seed,), split_seed)
    (cell,) = expand(asked).cells
    found = []
    for shared in (True, False):
        patched = mock.patch.object(features, "view_key", _shared_key)
        with patched if shared else nullcontext():
            record = run_one(cell, session).record
        if record.status != "done":
            raise SystemExit(f"{cell.describe()}: {record.error}")
        found.append(float(record.metrics["top1"]))
    return found[0], found[1]


def deviations(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviations (..., 2) over the seeds of pairs (..., seeds, 2)."""
    found: NDArray[np.float64] = pairs.std(axis=-2, ddof=1)
    return found


def ratio(pairs: NDArray[np.float64]) -> str:
    """Ratio of the standard deviations, shared to own, and its interval; `-` if nothing varies."""
    shared, own = deviations(pairs)
    if not own:
        return "-"
    rng = np.random.default_rng(0)
    drawn = deviations(pairs[rng.integers(0, len(pairs), (RESAMPLED, len(pairs)))])
    ratios = drawn[:, 0] / np.maximum(drawn[:, 1], np.finfo(float).tiny)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{shared / own:.2f} ({low:.2f} to {high:.2f})"


def lines(dataset: str, shots: int, seeds: int) -> Iterator[str]:
    """Yield a table row per method and kind of support set."""
    session = Session(None)
    for method in METHODS:
        for split_seed, sets in ((1, "one"), (None, "one per seed")):
            found = [
                top1(session, method, dataset, shots, seed, split_seed)
                for seed in range(1, seeds + 1)
            ]
            pairs = np.array(found)
            shared, own = deviations(pairs)
            numbers = f"{shared:.2f} | {own:.2f} | {ratio(pairs)}"
            yield f"| {method} | {dataset}, {shots}-shot | {sets} | {numbers} |"


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=30)
    asked = parser.parse_args()
    print("| method | data set | support sets | shared | own | ratio |")
    print("|---|---|---|---:|---:|---:|")
    for line in lines(asked.dataset, asked.shots, asked.seeds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
