"""`fsbench adapt`: is the accuracy on held-out pictures in the stated interval, on messy folders?

Five folders are made from the images of a data set: classes of unequal size, nested classes,
copies (smaller, compressed again, mirrored), wrong and double labels, pictures turned by EXIF. Each
draw holds out a share of the pictures of every class, with their copies, adapts to the rest, and
measures the kept model on what was held out. Its accuracy has noise, too: the interval states that
of endless pictures.

    python -m benchmarks.adapt_coverage shapes --draws 30
    python -m benchmarks.adapt_coverage folder:photos --methods gda,proker --held-out 0.7
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.adapt import METHODS
from fewshot_bench.api.registry import registry
from fewshot_bench.plugins.models import estimates
from fewshot_bench.plugins.models.budget import Budget
from fewshot_bench.plugins.models.estimates import Units
from fewshot_bench.plugins.models.fitting import Chosen, FitRunner
from fewshot_bench.plugins.models.material import Material, gather
from fewshot_bench.plugins.models.search import Search
from fewshot_bench.runner.request import Request
from fewshot_bench.runner.variants import expand_methods
from fewshot_bench.store.kept_models import MEASURES

KINDS = ("unequal", "nested", "copied", "mislabeled", "turned")
# Pictures per class; share of pictures that are copied, wrongly labeled or turned.
FEWEST, MOST, SHARE = 8, 100, {"copied": 0.4, "mislabeled": 0.1, "turned": 0.4}
# Classes of which a picture is in another class, too; how the pictures are turned.
DOUBLE, TURN = 3, 6


def make_folder(kind: str, source: Material, root: Path, seed: int) -> None:
    """Write a messy folder of images of `source`."""
    rng, count = np.random.default_rng(seed), len(source.classnames)
    names = [f"shelf {n % 2}/box {n}" if kind == "nested" else f"box {n}" for n in range(count)]
    sizes = rng.permutation(np.geomspace(FEWEST, MOST, count).astype(int)).tolist()
    for label, size in enumerate(sizes):
        places = rng.permutation(np.flatnonzero(source.labels == label))[:size].tolist()
        for number, place in enumerate(places):
            image = Image.open(io.BytesIO(source.dataset.read(source.items[place]))).convert("RGB")
            is_odd = rng.random() < SHARE.get(kind, 0)
            other = names[(label + int(rng.integers(1, count))) % count]
            here = other if is_odd and kind == "mislabeled" else names[label]
            name = f"{label} {number}.jpg"
            save(image, root / here / name, turned=is_odd and kind == "turned")
            if kind == "mislabeled" and label < DOUBLE and not number:
                save(image, root / other / "double.jpg")
            if is_odd and kind == "copied":
                small = ImageOps.scale(image, 0.7)
                again = ImageOps.mirror(small) if number % 2 else small
                save(again, root / here / f"again {name}")


def save(image: Image.Image, path: Path, turned: bool = False) -> None:
    """Write a JPEG file; `turned`: with an orientation that says how to turn it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = TURN
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path, "JPEG", quality=85, exif=exif)


def divide(material: Material, share: float, seed: int) -> tuple[Material, Material, list[int]]:
    """Hold out a share of the pictures of every class, with their copies, and no contradiction.

    The rest, the rest followed by the held-out images, and the number of all contradictions.
    """
    rng, copies = np.random.default_rng(seed), material.copies
    double = {index for group in copies.contradictions for index in group}
    out: list[int] = []
    for label in range(len(material.classnames)):
        places = np.flatnonzero(material.labels == label)
        firsts = np.unique(copies.groups[[place for place in places if place not in double]])
        held = rng.permutation(firsts)[: min(round(share * len(firsts)), len(firsts) - 2)]
        out += np.flatnonzero(np.isin(copies.groups, held)).tolist()
    kept = np.setdiff1d(np.arange(len(material.items)), out).tolist()
    few, whole = (tuple(material.items[i] for i in part) for part in (kept, kept + out))
    return (
        dataclasses.replace(material, items=few),
        dataclasses.replace(material, items=whole),
        sorted(double),
    )


def one(
    material: Material, given: argparse.Namespace, seed: int, cache: Path
) -> Iterator[dict[str, Any]]:
    """One draw, by each metric: what is stated, and what the kept model has on held-out pictures.

    Methods that clearly lose by top-1 are dropped for both metrics.
    """
    few, whole, double = divide(material, given.held_out, seed)
    chosen = Chosen(Request((), (), backbone=given.backbone), seed, "rotate")
    variants = expand_methods(given.methods.split(","), (), registry())
    search = Search(FitRunner(few, chosen, cache), variants, Budget(1e6))
    search.run()
    runner, count = FitRunner(whole, chosen, cache), len(few.items)
    train, test = np.arange(count), np.arange(count, len(whole.items))
    # Every file counts, as for whoever does not know of the copies.
    single = Units.of(whole.labels[test], test, np.arange(len(test)))
    for metric in MEASURES:
        search.weights = search.units.weights(metric)
        winner = search.choose()
        place = search.finalists.index(winner)
        stated = estimates.estimate(search.shares, place, search.weights, seed)
        _, logits = runner.fit(winner.variant, train, test, bool(winner.validation))
        right = (logits.argmax(axis=1) == whole.labels[test]).astype(float)
        found = float(right @ single.weights(metric))
        yield {
            "metric": metric,
            "seed": seed,
            "chosen": winner.title,
            "images": count,
            "held_out": len(test),
            "contradictions": len(double),
            "stated": [round(100 * value, 2) for value in (stated.low, stated.mean, stated.high)],
            "found": round(100 * found, 2),
            "inside": bool(stated.low <= found <= stated.high),
        }


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of every draw, with all kinds of folders in each."""
    with tempfile.TemporaryDirectory() as place:
        source, materials = gather(given.dataset, {}), {}
        for number, kind in enumerate(given.kinds.split(",")):
            make_folder(kind, source, Path(place) / kind, number)
            materials[kind] = gather(f"folder:{Path(place) / kind}", {})
        for seed in range(given.first, given.first + given.draws):
            for kind, material in materials.items():
                for row in one(material, given, seed, Path(place) / "cache"):
                    yield {"kind": kind, **row}


def summary(title: str, rows: list[dict[str, Any]]) -> str:
    """Coverage, width, and the mean of what was found minus what was stated."""
    inside = sum(row["inside"] for row in rows)
    stated = np.array([row["stated"] for row in rows])
    gap = np.array([row["found"] for row in rows]) - stated[:, 1]
    return (
        f"{title}: {inside} of {len(rows)} inside ({100 * inside / len(rows):.0f} %), "
        f"{np.mean(stated[:, 2] - stated[:, 0]):.1f} points wide, found {gap.mean():+.1f} "
        f"points from stated (standard deviation {gap.std():.1f})"
    )


def main() -> None:
    """Print JSON lines to stdout, and a summary of each kind and of all to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--held-out", type=float, default=0.5, help="share of each class")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--backbone", default="tiny")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in measured(given):
        print(json.dumps(row), flush=True)
        for title in (row["kind"], "all"):
            rows.setdefault(f"{title}, {row['metric']}", []).append(row)
    for title, found in sorted(rows.items()):
        print(summary(title, found), file=sys.stderr)


if __name__ == "__main__":
    main()
