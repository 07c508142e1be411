"""Synthetic records for tests of tables, and helpers that read the output."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import lay_out
from fewshot_bench.analysis.table.table import Cell, Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import ALONE, RunSpec
from fewshot_bench.api.violations import DEPENDENT
from fewshot_bench.cli.compare import command
from fewshot_bench.runner.variants import expand_methods
from fewshot_bench.store.store import Store
from tests.support.answers import put_answers
from tests.support.synthetic_store import Images, done_record, predicted, specification


def written(form: str, table: Table, layout: str = "full", **style: Any) -> str:
    """Render a table in a format and a layout, as `fsbench compare` prints it."""
    return formats.render(lay_out(table, form, Display(layout)), form, **style)


TIED = "its classifier is tied to the classes that it was fitted on"


def make(
    method: str = "coop",
    dataset: str = "dtd",
    shots: int = 1,
    seed: int = 1,
    top1: float | None = 50.0,
    digest: str | None = None,
    **spec: Any,
) -> Record:
    """Make a record; a failed one if top1 is None."""
    values = {"split_seed": seed, "train_seed": seed, "backbone": "test", **spec}
    done = top1 is not None
    return Record(
        RunSpec(method, dataset, shots, **values),
        "done" if done else "failed",
        split={"digest": digest or f"{dataset}-{shots}-{seed}", "verified": True},
        metrics={"top1": top1, "macro_accuracy": top1 - 1, "n": 100} if top1 is not None else {},
        footprint={"trained": 184320, "peak_memory_mb": 100.0 + seed} if done else {},
        timings={"billed_seconds": 2.0 * seed} if done else {},
        error=None if done else {"type": "RuntimeError", "message": "m", "traceback": "t"},
    )


def inapplicable(*args: Any, reason: str = TIED, **spec: Any) -> Record:
    """A record with status "inapplicable"."""
    record = make(*args, top1=None, **spec)
    error = {"type": "NotApplicableError", "message": reason, "traceback": ""}
    return dataclasses.replace(record, status="inapplicable", error=error)


def halves(
    method: str, dataset: str, seed: int, base: float | None, new: float | None, **spec: Any
) -> list[Record]:
    """Records of the base and the new classes of one fit."""
    return [
        make(method, dataset, seed=seed, top1=top1, classes=classes, **spec)
        for classes, top1 in (("base", base), ("new", new))
    ]


def matrix(
    methods: Iterable[str] = ("coop", "zero-shot"),
    datasets: Iterable[str] = ("dtd", "pets"),
    shots: Iterable[int] = (1, 4),
    seeds: Iterable[int] = (1, 2, 3),
) -> list[Record]:
    cells = itertools.product(methods, datasets, shots, seeds)
    return [
        make(method, dataset, k, seed, 50.0 + 7 * (number % 5) + seed)
        for number, (method, dataset, k, seed) in enumerate(cells)
    ]


def cell(table: Table, dataset: str, label: str, shots: int) -> Cell:
    return table.cells[dataset, label, shots]


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def save(folder: Path, records: Iterable[Record]) -> Path:
    store = Store(folder)
    store.create()
    for record in records:
        store.write(record)
    return folder


def run_compare(*words: str | Path) -> Any:
    """Run `fsbench compare` with these arguments."""
    return CliRunner().invoke(command, [str(word) for word in words])


def stated(
    method: str = "coop", depends: bool | None = False, text: str = "templates", **about: Any
) -> Record:
    """A record that says whether it depends on other queries, and what it knows of classes."""
    record = make(method, **about)
    facts: dict[str, Any] = {"depends_on_queries": depends, "card": {"text": text}}
    if depends and record.spec.queries == ALONE:
        facts["violations"] = [DEPENDENT]
    return dataclasses.replace(record, footprint={**record.footprint, **facts})


def value(options: Mapping[str, Any], dataset: str, seed: int) -> float:
    """A value that identifies its cell."""
    matrix = ["q", "k", "v", "o", "qv", "qkv", "qkvo"].index(options["matrices"])
    return 60 + math.log2(options["rank"]) + 3 * matrix + 10 * (dataset == "pets") + 0.25 * seed


def swept(
    words: Iterable[str],
    datasets: Iterable[str] = ("dtd",),
    seeds: Iterable[int] = (1, 2, 3),
    **spec: Any,
) -> list[Record]:
    """Records for all combinations of the options in `words`."""
    options = [word for word in words if word != "-o"]
    return [
        make(
            "clip-lora",
            dataset,
            4,
            seed,
            value(variant.options, dataset, seed),
            options=variant.options,
            overrides=variant.overrides,
            method_version=variant.version,
            **spec,
        )
        for variant in expand_methods(("clip-lora",), options, registry())
        for dataset in datasets
        for seed in seeds
    ]


Run = tuple[int, int]


SPLITS, TRAINS = (1, 2, 3), (1, 2)


CROSSED = tuple(itertools.product(SPLITS, TRAINS))


def fill_crossed(
    store: Path, runs: Sequence[Run], *, other_images: bool = False, queries: int = 120
) -> None:
    """Store two methods on dtd; other_images: every support set has test images of its own."""
    opened = Store(store)
    opened.create()
    for method, (split, train) in itertools.product(("linear-probe", "coop"), runs):
        images = Images.draw("dtd", queries, 5)
        if other_images:
            images = dataclasses.replace(images, ids=[f"{split}/{name}" for name in images.ids])
        spec = specification(method, "dtd", 4, split, "all")
        arrays = predicted(dataclasses.replace(spec, train_seed=10 * split + train), images)
        record = done_record(spec, arrays, 0)
        spec = dataclasses.replace(spec, train_seed=train)
        record = dataclasses.replace(record, spec=spec)
        put_answers(opened, record, arrays["logits"], arrays["labels"], arrays["ids"])
