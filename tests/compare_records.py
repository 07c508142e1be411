"""Synthetic records for tests of tables, and helpers that read the output."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import lay_out
from fewshot_bench.analysis.table.table import Cell, Table
from fewshot_bench.api.record import Record
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.cli.compare import command
from fewshot_bench.store.store import Store


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
