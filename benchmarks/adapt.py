"""`fsbench adapt`: does the stated interval hold, and how far is `auto` from the best method?

Each repeat draws new images, as many per class as given (0: unequal, 1 to 16), and chooses a model
from them; all candidates are then measured on up to 100 other images per class. The interval is
compared with the accuracy at the given class proportions, which is what it is stated for.

    python -m benchmarks.adapt shapes:4 letters:0 folder:photos:8 --repeats 10
    python -m benchmarks.adapt shapes:4 letters:0 --repeats 4 --first 201
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.budget import Budget
from fewshot_bench.plugins.models.fitting import Chosen, FitRunner
from fewshot_bench.plugins.models.material import Material, gather
from fewshot_bench.plugins.models.search import Search
from fewshot_bench.runner.request import Request
from fewshot_bench.runner.variants import expand_methods

METHODS = "zero-shot,gda,tip-adapter,proker,linear-probe,lp++"
HELD_OUT = 100


def drawn(material: Material, shots: int, seed: int) -> tuple[Material, Material]:
    """Draw the images to adapt to; return them, and them followed by the held-out images."""
    rng = np.random.default_rng(seed)
    train: list[int] = []
    test: list[int] = []
    for label in range(len(material.classnames)):
        places = rng.permutation(np.flatnonzero(material.labels == label)).tolist()
        count = shots or int(rng.integers(1, 17))
        train += places[:count]
        test += places[count : count + HELD_OUT]
    few, whole = (tuple(material.items[i] for i in part) for part in (train, train + test))
    return dataclasses.replace(material, items=few), dataclasses.replace(material, items=whole)


def one(material: Material, shots: int, seed: int, methods: str, cache: Path) -> dict[str, Any]:
    """One repeat: the stated accuracy, and the accuracy of every candidate on held-out images."""
    few, whole = drawn(material, shots, 1000 + seed)
    chosen = Chosen(Request((), (), backbone="tiny"), seed)
    variants = expand_methods(methods.split(","), (), registry())
    search = Search(FitRunner(few, chosen, cache), variants, Budget(1e6))
    search.run()
    winner, count = search.choose(), len(few.items)
    stated = estimates.estimate(search.shares, search.finalists.index(winner), search.weights, seed)
    workshop, test = FitRunner(whole, chosen, cache), np.arange(count, len(whole.items))
    held_out: dict[str, float] = {}
    shares: dict[str, float] = {}
    labels = whole.labels[test]
    classes = len(few.classnames)
    counts, tested = (np.bincount(each, minlength=classes) for each in (few.labels, labels))
    weights = (counts / tested)[labels]
    for candidate in search.candidates:
        if candidate.repeats:
            keep = bool(candidate.validation)
            _, logits = workshop.fit(candidate.variant, np.arange(count), test, keep)
            right = logits.argmax(axis=1) == whole.labels[test]
            held_out[candidate.title] = round(100 * float(right.mean()), 2)
            shares[candidate.title] = round(100 * float(np.average(right, weights=weights)), 2)
    first = {c.title: c.right(search.units, 1) for c in search.candidates if c.repeats}
    return {
        "seed": seed,
        "chosen": winner.title,
        "held_out": held_out[winner.title],
        "stated": [round(100 * value, 2) for value in (stated.low, stated.mean, stated.high)],
        "as_given": shares[winner.title],
        "inside": stated.low <= shares[winner.title] / 100 <= stated.high,
        "behind": round(max(held_out.values()) - held_out[winner.title], 2),
        "all": held_out,
        "seen": {c.title: c.right(search.units, search.repeats).tolist() for c in search.finalists},
        "first": {title: round(100 * float(right.mean()), 2) for title, right in first.items()},
    }


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of every repeat, with all folders in each."""
    with tempfile.TemporaryDirectory() as cache:
        for seed in range(arguments.first, arguments.first + arguments.repeats):
            for spec in arguments.folders:
                name, _, shots = spec.rpartition(":")
                found = one(gather(name, {}), int(shots), seed, arguments.methods, Path(cache))
                yield {"folder": spec, **found}


def summary(title: str, rows: list[dict[str, Any]]) -> str:
    """Coverage, and how far `auto` is behind the method best on average and the best of each draw.

    A method that sets no images apart has no "(all images)" variant and stands for it, too.
    """
    names = {name for row in rows for name in row["all"]}
    found = {name: np.array([_held_out(row, name) for row in rows]) for name in names}
    best = max(sorted(names), key=lambda name: float(np.nanmean(found[name])))
    ours = np.array([row["held_out"] for row in rows])
    inside, behind = sum(row["inside"] for row in rows), np.array([row["behind"] for row in rows])
    return (
        f"{title}: {inside} of {len(rows)} inside; auto {ours.mean():.2f} %, behind the best "
        f"method on average ({best}) {_mean(found[best] - ours)}, "
        f"behind the best of each {_mean(behind)}"
    )


def _held_out(row: dict[str, Any], name: str) -> float:
    known = row["all"]
    return float(known.get(name, known.get(name.removesuffix(" (all images)"), np.nan)))


def _mean(values: np.ndarray) -> str:
    """The mean with its standard error."""
    some = values[~np.isnan(values)]
    error = some.std(ddof=1) / len(some) ** 0.5 if len(some) > 1 else np.inf
    return f"{some.mean():.2f} +- {error:.2f}"


def main() -> None:
    """Print JSON lines to stdout, and a summary of each folder and of all to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="DATASET:SHOTS")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--methods", default=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in measured(arguments):
        print(json.dumps(row), flush=True)
        rows.setdefault(row["folder"], []).append(row)
    for spec, found in rows.items():
        print(summary(spec, found), file=sys.stderr)
    print(summary("all", [row for found in rows.values() for row in found]), file=sys.stderr)


if __name__ == "__main__":
    main()
