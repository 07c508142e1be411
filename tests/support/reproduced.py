"""Records and rows for tests of `fsbench reproduce`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.cells import Wanted, cells
from fewshot_bench.plugins.reproduce.published import reproduction
from fewshot_bench.splits.published import published_splits
from tests.support.compare_records import make, read_csv
from tests.support.helpers import fsbench

TABLE = "clip-lora-table3"


IMAGES = {"dtd": 1692, "oxford_pets": 3669, "eurosat": 8100}


@functools.cache
def options(method: str, dataset: str, table: str = TABLE) -> dict[str, Any]:
    """Full options of a method's row in a table."""
    rows = cells(reproduction(table), Wanted(datasets=(dataset,)))
    return dict(next(cell.variant.options for cell in rows if cell.label == method))


def record(
    dataset: str, seed: int, top1: float | None, method: str = "clip-lora", **more: Any
) -> Record:
    """A record under the conditions of the table, on the published lists."""
    name, _, _ = method.partition("[")
    lists = published_splits()[dataset].lists_sha256[:16]
    spec = {
        "backbone": "ViT-B-16/openai",
        "protocol": "clip-lora",
        "val": "none",
        "prompts": "simple",
        "revision": f"file:{lists}",
        "method_version": "2",
        "options": options(method, dataset),
    }
    made = make(name, dataset, 1, seed, top1, **(spec | more))
    if top1 is not None:
        made.metrics["n"] = IMAGES[dataset]
    return made


def three(dataset: str, mean: float, step: float = 0.5, **more: Any) -> list[Record]:
    return [record(dataset, s, mean + step * (s - 2), **more) for s in (1, 2, 3)]


def rows(store: Path, *words: object) -> dict[tuple[str, str], dict[str, str]]:
    """CSV lines of CLIP-LoRA at one shot, by method and data set."""
    call = (TABLE, "--only-existing", "--format", "csv", "--store", store, "--shots", 1)
    done = fsbench("reproduce", *call, "-m", "clip-lora", *words)
    lines = {(line["method"], line["dataset"]): line for line in read_csv(done.out)}
    assert done.code == any(line["status"] == "failed" for line in lines.values()), done.err
    return lines


def line(store: Path, dataset: str = "dtd", *words: object) -> dict[str, str]:
    return rows(store, *words)["clip-lora", dataset]
