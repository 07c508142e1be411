"""Suspect labels of `fsbench adapt`: how many of the labels that were made wrong are found?

Each draw gives a share of the images another label, adapts one method to all, and reads the list of
suspects. `--dump` keeps labels and probabilities of each draw, to be compared with other programs.

    python -m benchmarks.suspects folder:photos --rates 0.05,0.1,0.2 --draws 3
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import fewshot_bench as fb
from fewshot_bench.plugins.models.material import gather
from fewshot_bench.plugins.models.suspects import rank_suspects


def one(data: str, method: str, rate: float, seed: int, dump: Path | None) -> tuple[int, ...]:
    """(planted, suspects, planted among them, planted among the first as many as planted)."""
    material, rng = gather(data, {}), np.random.default_rng(seed)
    count = len(material.classnames)
    wrong = rng.random(len(material.items)) < rate
    labels = (material.labels + wrong * rng.integers(1, count, len(wrong))) % count
    planted = {material.items[at].id: material.classnames[labels[at]] for at in wrong.nonzero()[0]}
    rows = [(id, "", name) for id, name in planted.items()]
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {
            "method": method,
            "backbone": "tiny",
            "device": "cpu",
            "budget": "1h",
        }
        learned = fb.adapt(data, f"{folder}/model", seed=seed, relabel=rows, **asked).learned
    assert learned is not None
    held = learned.held
    labels, shares = learned.labels[held], learned.probabilities[held]
    bad = np.array([id in planted for id in learned.ids])[held]
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        np.savez(dump / f"{method}-{rate}-{seed}.npz", labels=labels, p=shares, bad=bad)
    found = bad[rank_suspects(labels, shares)[0]]
    return int(bad.sum()), len(found), int(found.sum()), int(found[: bad.sum()].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--method", default="gda")
    parser.add_argument("--rates", default="0.05,0.1,0.2,0.3")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--dump", type=Path)
    given = parser.parse_args()
    for rate in map(float, given.rates.split(",")):
        draws = [
            one(given.data, given.method, rate, seed, given.dump)
            for seed in range(1, 1 + given.draws)
        ]
        planted, suspects, found, first = np.sum(draws, axis=0)
        print(
            f"{100 * rate:.0f} % wrong: {found} of {planted} among {suspects} suspects, "
            f"{first} among the first {planted}",
            flush=True,
        )


if __name__ == "__main__":
    main()
