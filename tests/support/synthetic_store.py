"""Stores of synthetic records with logits, large enough to time tables and reports.

Accuracy rises with shots, methods and data sets differ, some images are harder than others for
every method, and logits are overconfident, the more so the more shots and the longer the name.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot_bench.api.items import Item, digest_of
from fewshot_bench.api.metrics import rounded
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.store.store import Store
from tests.support.answers import answers_of, put_answers

DATASETS = (
    *("caltech101", "dtd", "eurosat", "fgvc-aircraft", "flowers102", "food101"),
    *("imagenet", "oxford-pets", "stanford-cars", "sun397", "ucf101"),
)
METHODS = (
    *("linear-probe", "clip-adapter", "tip-adapter", "tip-adapter-f", "coop", "cocoop"),
    *("taskres", "kgcoop", "prograd", "maple", "plot", "clip-lora"),
)
ZERO_SHOT = "zero-shot"
FULL_SHOTS, FULL_SEEDS = (1, 2, 4, 8, 16), (1, 2, 3)
# Margin of the true class in units of logit noise: initial value, and gain per doubling of shots.
START, GAIN = 3.0, 0.14
HARDNESS, SHARED_NOISE, OWN_NOISE = 1.1, 0.8, 0.6


@dataclass(frozen=True)
class Images:
    """Queries of one data set, with their difficulty for all methods."""

    ids: list[str]
    labels: np.ndarray
    hardness: np.ndarray
    noise: np.ndarray

    @classmethod
    def draw(cls, dataset: str, queries: int, classes: int) -> Images:
        """Draw labels (queries,), rarer for higher classes, and noise (queries, classes)."""
        rng = generator("images", dataset)
        weight = np.linspace(1.3, 0.7, classes)
        labels = rng.choice(classes, size=queries, p=weight / weight.sum())
        labels[:classes] = np.arange(classes)[:queries]
        per_class = rng.normal(0, 0.5, classes)
        hardness = HARDNESS * rng.standard_normal(queries) + per_class[labels]
        noise = rng.standard_normal((queries, classes), dtype=np.float32)
        # Each class is most often confused with the next one.
        noise[np.arange(queries), (labels + 1) % classes] += 0.7
        ids = [f"test/{label:03d}/image_{index:05d}.jpg" for index, label in enumerate(labels)]
        return cls(ids, labels, hardness, noise)


def generator(*names: object) -> np.random.Generator:
    """Random generator seeded by the names alone."""
    return np.random.default_rng(list(":".join(map(str, names)).encode()))


def fill(
    store: Path,
    datasets: int = 11,
    methods: int = 12,
    shots: Sequence[int] = FULL_SHOTS,
    seeds: Sequence[int] = FULL_SEEDS,
    queries: int = 1000,
    classes: int = 50,
    failed: int = 0,
    zero_shot: bool = False,
    halves: bool = False,
    put: Callable[..., Record] = put_answers,
) -> Store:
    """Fill a store with datasets x methods x shots x seeds records, deterministically.

    failed: number of failed cells; zero_shot: add a method without shots; halves: add base and new
    classes of the first two data sets at the most shots. put: writes a record with its logits,
    labels and ids.
    """
    made = Store(store)
    made.create()
    names = DATASETS[:datasets]
    images = {name: Images.draw(name, queries, classes) for name in names}
    cells = list(itertools.product(METHODS[:methods], names, shots, seeds, ("all",)))
    if zero_shot:
        cells += itertools.product([ZERO_SHOT], names, [0], seeds, ["all"])
    if halves:
        chosen = METHODS[:methods], names[:2], [max(shots)], seeds, ("base", "new")
        cells += itertools.product(*chosen)
    step = max(1, len(cells) // failed) if failed else 0
    broken = {index * step for index in range(failed)}

    def write(index: int) -> None:
        method, dataset, k, seed, part = cells[index]
        spec = specification(method, dataset, k, seed, part)
        if index in broken:
            made.write(failed_record(spec))
            return
        arrays = predicted(spec, images[dataset])
        record = done_record(spec, arrays, METHODS.index(method) if method != ZERO_SHOT else -1)
        put(made, record, arrays["logits"], arrays["labels"], arrays["ids"])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(len(cells))))
    return made


def specification(method: str, dataset: str, shots: int, seed: int, classes: str) -> RunSpec:
    """The cell's specification, on a common backbone."""
    options = {"rank": 2, "lr": 2e-4} if method == "clip-lora" else {"lr": 2e-3}
    return RunSpec(
        *(method, dataset, shots, seed, seed),
        backbone="ViT-B-16/openai",
        options={} if method == ZERO_SHOT else options,
        revision=f"synthetic:{dataset}",
        weights="a1b2" * 16,
        classes=classes,
    )


def predicted(spec: RunSpec, images: Images) -> Mapping[str, Any]:
    """The arrays of a cell: `logits` (n, classes), `labels` (n,), `ids` (n,)."""
    labels, noise, hardness, ids = images.labels, images.noise, images.hardness, images.ids
    classes = noise.shape[1]
    if spec.classes != "all":
        half = (classes + 1) // 2
        chosen = labels < half if spec.classes == "base" else labels >= half
        columns = slice(None, half) if spec.classes == "base" else slice(half, None)
        labels, noise, hardness = labels[chosen], noise[chosen][:, columns], hardness[chosen]
        labels = labels - (half if spec.classes == "new" else 0)
        ids = [name for name, kept in zip(ids, chosen, strict=True) if kept]
    seed = spec.train_seed if spec.shots else 0
    rng = generator(spec.method, spec.dataset, spec.shots, seed, spec.classes)
    logits = SHARED_NOISE * noise
    logits += OWN_NOISE * rng.standard_normal(noise.shape, dtype=np.float32)
    logits[np.arange(len(labels)), labels] += skill(spec, rng) - hardness
    sure = 1.6 + 0.25 * np.log2(1 + spec.shots) + 0.05 * len(spec.method)
    return {"logits": (sure * logits).astype(np.float32), "labels": labels, "ids": ids}


def skill(spec: RunSpec, rng: np.random.Generator) -> float:
    """Margin of a method on a data set, including luck that shrinks with shots."""
    place = METHODS.index(spec.method) if spec.method != ZERO_SHOT else -2
    level = generator("level", spec.dataset).normal(0, 0.7)
    taste = generator("taste", spec.method, spec.dataset).normal(0, 0.12)
    luck = rng.normal(0, 0.08) / np.sqrt(1 + spec.shots)
    gain = (GAIN + 0.012 * place) * np.log2(1 + spec.shots)
    loss = -0.3 if spec.classes == "new" else 0.0
    return float(START + level + taste + luck + gain + loss)


def done_record(spec: RunSpec, arrays: Mapping[str, Any], place: int) -> Record:
    """A record with the metrics of its logits, and costs that grow with shots and methods."""
    rng = generator("costs", spec.method, spec.dataset, spec.shots, spec.train_seed)
    n, classes = arrays["logits"].shape
    seconds = (1.0 + place) * (1 + spec.shots) * float(rng.uniform(0.9, 1.1)) + 2.0
    values = rounded(answers_of(arrays["logits"], arrays["labels"]))
    return Record(
        spec,
        "done",
        split=split_of(spec, arrays, n, classes),
        metrics=values,
        footprint={
            "trained": 0 if place < 0 else 2048 * (1 + place) ** 2,
            "trained_source": "observed",
            "stored": 512 * classes,
            "backbone": 149_620_737,
            "peak_memory_mb": round(900.0 + 150 * place + 10 * spec.shots, 1),
            "images_seen": spec.shots * classes * 50,
            "steps": 0 if place < 0 else 50 * spec.shots,
            "selection": {"configurations": 0, "labels": 0},
        },
        timings={"billed_seconds": round(seconds, 6), "elapsed_seconds": round(seconds, 6)},
        environment=ENVIRONMENT,
    )


ENVIRONMENT: Mapping[str, Any] = {
    "fewshot_bench": "0.1.0",
    "commit": None,
    "dirty": None,
    "python": "3.11.9",
    "packages": {"torch": "2.6.0", "open_clip_torch": "2.30.0", "numpy": "2.2.0"},
    "platform": "Linux",
    "device": "cpu",
    "device_name": "x86_64",
    "threads": 1,
    "cpus": 2,
    "weights_digest": "a1b2" * 16,
}


def split_of(spec: RunSpec, arrays: Mapping[str, Any], n: int, classes: int) -> dict[str, Any]:
    """Split facts of a record: same queries for a data set, different picks per seed."""
    queries = tuple(map(str, arrays["ids"])), tuple(arrays["labels"].tolist())
    return {
        "digest": split_digest(spec.shots, spec.split_seed, classes, *queries),
        "protocol": spec.protocol,
        "revision": spec.revision,
        "classes": classes,
        "train": spec.shots * classes,
        "val": min(4, spec.shots) * classes,
        "test": n,
        "verified": True,
        "mirrored": True,
        "templates": ["a photo of a {}."],
        "classnames": class_names(classes),
    }


@functools.lru_cache(maxsize=1024)
def split_digest(
    shots: int, seed: int, classes: int, ids: tuple[str, ...], labels: tuple[int, ...]
) -> str:
    """Digest of picks and queries, shared by all methods."""
    test = (Item(name, y, f"class {y}") for name, y in zip(ids, labels, strict=True))
    picks = (Item(f"{shots}-{seed}-{y}", y, "") for y in range(classes))
    return digest_of((("train", picks), ("test", test)))


def class_names(classes: int) -> list[str]:
    """Class names, some with characters that are special in LaTeX and Markdown."""
    odd = ("black_cat & dog", "50% wool", "C# score", "a $5 bill")
    return [odd[label] if label < len(odd) else f"kind {label}" for label in range(classes)]


def failed_record(spec: RunSpec) -> Record:
    """A cell whose method failed."""
    error = {"type": "RuntimeError", "message": "out of luck", "traceback": "", "expected": False}
    return Record(spec, "failed", error=error)
