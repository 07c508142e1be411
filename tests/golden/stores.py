"""Stores whose outputs are compared with golden ones: built by the public doors alone.

Numbers follow from the names of a cell; nothing here may change without new golden outputs.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.api.metrics import Answers, rounded
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import Store
from tests.support.reproduced import three

CLASSES, QUERIES = 5, 40
LABELS = np.arange(QUERIES) % CLASSES
IDS = [f"test/{label}/{index:03d}.jpg" for index, label in enumerate(LABELS)]
SEEDS = (1, 2, 3)
SKILL = {"zero-shot": 1.0, "linear-probe": 1.2, "tip-adapter": 1.5, "coop": 1.6, "clip-lora": 2.0}
ENVIRONMENT = {
    "weights_digest": "ab" * 32,
    "device_name": "card",
    "threads": 1,
    "determinism": "free",
    "fewshot_bench": "0.1.0",
    "commit": "c" * 40,
    "dirty": False,
    "python": "3.11.7",
    "packages": {"torch": "2.6"},
    "load": 0.5,
    "cpus": 2,
    "platform": "Linux",
    "device": "cpu",
}


def generator(*names: object) -> np.random.Generator:
    """Random numbers that follow from names."""
    return np.random.default_rng(list(":".join(map(str, names)).encode()))


def logits_of(spec: RunSpec) -> np.ndarray[Any, Any]:
    """Logits (QUERIES, CLASSES) of a cell: hard images are hard for every method."""
    names = (spec.dataset, spec.target, spec.classes)
    logits = generator("images", *names).normal(0, 1, (QUERIES, CLASSES))
    logits += generator(
        spec.method, *names, spec.shots, spec.train_seed, sorted(spec.overrides.items())
    ).normal(0, 0.7, (QUERIES, CLASSES))
    logits[np.arange(QUERIES), LABELS] += SKILL[spec.method] + 0.2 * np.log2(1 + spec.shots)
    return logits.astype(np.float32)


def finished(spec: RunSpec) -> tuple[Record, Answers]:
    """A finished record with the metrics of its logits, complete as the harness writes it."""
    answers = Answers.of(logits_of(spec), LABELS.astype(np.int64))
    split = f"{spec.dataset}-{spec.shots}-{spec.split_seed}-{spec.classes}"
    cost = zlib.crc32(repr((spec.method, spec.dataset, spec.shots, spec.train_seed)).encode()) % 97
    record = Record(
        spec,
        "done",
        split={
            "digest": split,
            "verified": True,
            "classes": CLASSES,
            "train": max(1, spec.shots) * CLASSES,
            "val": 20,
            "test": QUERIES,
            "mirrored": True,
            "templates": ["a photo of a {}."],
        },
        metrics=rounded(answers),
        footprint={
            "trained": 0 if spec.method == "zero-shot" else 1000 * len(spec.method),
            "trained_source": "observed",
            "stored": 2048,
            "backbone": 149_620_737,
            "peak_memory_mb": 100.0 + cost,
            "images_seen": 50 * spec.shots,
            "steps": 10 * spec.shots,
            "selection": {"configurations": 0, "labels": 0},
        },
        timings={"billed_seconds": 1.5 + cost / 8, "elapsed_seconds": 2.5 + cost / 8},
        environment=ENVIRONMENT,
    )
    return record, answers


def failed(spec: RunSpec, status: Any = "failed", message: str = "no memory left") -> Record:
    """A record of a cell without numbers."""
    error = {"type": "RuntimeError", "message": message, "traceback": ""}
    return Record(spec, status, environment=ENVIRONMENT, error=error)


def specification(method: str, dataset: str, shots: int, seed: int, **spec: Any) -> RunSpec:
    """A cell on a common backbone."""
    values = {
        "split_seed": seed,
        "train_seed": seed,
        "backbone": "test",
        "revision": f"golden:{dataset}",
        "options": {} if method == "zero-shot" else {"lr": 0.002},
        **spec,
    }
    return RunSpec(method, dataset, shots, **values)


def grid(
    methods: Iterable[str] = SKILL,
    datasets: Iterable[str] = ("dtd", "eurosat"),
    shots: Iterable[int] = (1, 4),
    **spec: Any,
) -> Iterator[RunSpec]:
    """Every cell of a matrix; zero-shot has no shots."""
    for method, dataset in itertools.product(methods, datasets):
        for k, seed in itertools.product((0,) if method == "zero-shot" else shots, SEEDS):
            yield specification(method, dataset, k, seed, **spec)


def plain() -> Iterator[RunSpec]:
    """Methods, data sets, shots and seeds."""
    return grid()


def crossed() -> Iterator[RunSpec]:
    """Every support set with every seed of training."""
    for method, split, train in itertools.product(("coop", "clip-lora"), SEEDS, SEEDS):
        yield specification(method, "dtd", 4, 1, split_seed=split, train_seed=train)
    for train in SEEDS:
        yield specification("tip-adapter", "dtd", 4, 1, split_seed=1, train_seed=train)


def transfer() -> Iterator[RunSpec]:
    """Fits on one data set, evaluated there and on others."""
    methods, targets = ("zero-shot", "coop", "clip-lora"), ("imagenet-a", "imagenet-r", "dtd")
    yield from grid(methods, ("imagenet",), (4,))
    for target in targets:
        yield from grid(methods, ("imagenet",), (4,), target=target, target_revision="1")


def base_to_new() -> Iterator[RunSpec]:
    """Base and new classes of each fit, which have a harmonic mean."""
    for part in ("base", "new"):
        yield from grid(("coop", "clip-lora"), ("dtd", "eurosat"), (4,), classes=part)
    yield from grid(("coop",), ("dtd",), (4,))


def conditions() -> Iterator[RunSpec]:
    """Two protocols, two sets of prompts, two precisions, and a limit."""
    few = ("zero-shot", "coop"), ("dtd",), (1, 4)
    yield from grid(*few, protocol="coop", val="min4")
    yield from grid(*few, protocol="coop", val="min4", prompts="simple")
    yield from grid(*few, protocol="coop", val="min4", precision="bf16")
    yield from grid(*few, protocol="fair", limit=20)


def swept() -> Iterator[RunSpec]:
    """CLIP-LoRA with several ranks and adapted matrices."""
    for rank, matrices in itertools.product((1, 2, 4), ("q", "qv")):
        changed = {"rank": rank, "matrices": matrices}
        own = {name: value for name, value in changed.items() if (name, value) != ("rank", 2)}
        yield from grid(("clip-lora",), shots=(4,), **clip_lora(changed, own))


def clip_lora(changed: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Options of CLIP-LoRA with some changed, as a run has them."""
    from fewshot_bench.api.registry import registry
    from fewshot_bench.runner.variants import expand_methods

    words = [f"{name}={value}" for name, value in changed.items()]
    (variant,) = expand_methods(("clip-lora",), words, registry())
    return {
        "options": variant.options,
        "overrides": variant.overrides,
        "method_version": variant.version,
    }


def with_holes(records: Iterator[Any]) -> Iterator[Any]:
    """Some cells failed, some inapplicable, some missing."""
    for place, item in enumerate(records):
        if place % 7 == 3:
            yield failed(item)
        elif item.method == "tip-adapter" and item.dataset == "dtd":
            yield failed(item, "inapplicable", "it has no cache for these classes")
        elif place % 11 != 5:
            yield item


def printed() -> Iterator[Record]:
    """Runs of what CLIP-LoRA's paper prints: near it, and far from it."""
    for dataset, mean in {"dtd": 49.3, "eurosat": 72.4}.items():
        yield from three(dataset, mean)


STORES: dict[str, Callable[[], Iterator[Any]]] = {
    "plain": plain,
    "crossed": crossed,
    "transfer": transfer,
    "base-to-new": base_to_new,
    "holes": lambda: with_holes(grid()),
    "conditions": conditions,
    "swept": swept,
    "printed": printed,
}


def fill(name: str, folder: Path) -> None:
    """Make one of the stores."""
    store = Store(folder)
    store.create()
    for item in STORES[name]():
        if isinstance(item, Record):
            store.write(dataclasses.replace(item))
        else:
            record, answers = finished(item)
            store.write(record, answers, IDS, "all")
