"""Readers of lists of data sets: manifests, split files, archives, shards."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from fewshot_bench.api.registry import registry
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support import dataset_trees, own_sets
from tests.support.split_trees import write_small

ROWS = [(f"img/{n}.png", n % 2, ("cat", "dog")[n % 2], ("train", "test")[n > 5]) for n in range(8)]
NAMES = ("path", "label", "class", "split")


def _manifests(folder: Path) -> list[Seed]:
    for number, (path, *_) in enumerate(ROWS):
        dataset_trees.put(folder / path, own_sets.picture(number))
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    free = [{k: v for k, v in row.items() if k in ("path", "class")} for row in rows]
    tables = {
        f"m{end}": "\n".join(mark.join(map(str, row)) for row in (NAMES, *ROWS))
        for end, mark in ((".csv", ","), (".tsv", "\t"))
    }
    return [
        *(Seed(name, text.encode(), name[-3:]) for name, text in tables.items()),
        Seed("m.json", json.dumps(rows).encode(), "json"),
        Seed("m.jsonl", "\n".join(map(json.dumps, rows)).encode(), "jsonl"),
        Seed("n.jsonl", "\n".join(map(json.dumps, free)).encode(), "jsonl"),
        *_parquet(rows),
    ]


def _parquet(rows: list[dict[str, Any]]) -> list[Seed]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return []
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return [Seed("m.parquet", sink.getvalue().to_pybytes())]


def _open(name: str) -> bool:
    dataset = registry().dataset(name)
    pools = dataset.items()
    dataset.card()
    for items in pools.values():
        for item in items[:2]:
            with suppress(OSError):
                dataset.read(item)
    return True


def _open_manifest(folder: Path, file: Path) -> bool:
    return _open(f"manifest:{file}")


def _kept_splits(folder: Path) -> list[Seed]:
    free = next(seed for seed in _manifests(folder) if seed.path == "n.jsonl")
    (folder / free.path).write_bytes(free.content)
    registry().dataset(f"manifest:{folder / free.path}").keep_split(beside=True)
    return seeds_in(folder, ("*.fsbench-split.json", "json"))


def _open_kept(folder: Path, file: Path) -> bool:
    return _open(f"manifest:{folder / 'n.jsonl'}")


def _coop(folder: Path) -> list[Seed]:
    write_small(folder)
    return seeds_in(folder, ("split.json", "json"))


def _open_coop(folder: Path, file: Path) -> bool:
    return _open(f"coop:{folder}")


def _aircraft(folder: Path) -> list[Seed]:
    dataset_trees.write_aircraft(folder / "fgvc_aircraft")
    return seeds_in(folder, ("fgvc_aircraft/*.txt", "txt"))


def _open_named(name: str) -> Any:
    def read(folder: Path, file: Path) -> bool:
        os.environ["FSBENCH_DATA"] = str(folder)
        return _open(name)

    return read


def _imagenet(folder: Path) -> list[Seed]:
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder.parent) as source:
        dataset_trees.write_imagenet(Path(source), each=2)
        dataset_trees.pack_imagenet(Path(source), folder / "imagenet")
    return seeds_in(folder, ("imagenet/*.tar", "tar"), ("imagenet/*.gz", "tar.gz"))


def _shards(folder: Path) -> list[Seed]:
    own_sets.write_shard(folder / "set" / "train" / "0.tar", own_sets.samples(4))
    described = ((f"{n}.{end}", content) for n in range(4) for end, content in _described(n))
    own_sets.write_shard(folder / "set" / "test" / "0.tar", described)
    (folder / "set" / "classnames.txt").write_text("cat\nbig dog\n")
    (folder / "set" / "zeroshot_classification_templates.txt").write_text("a {c}.\nart: {c}\n")
    return seeds_in(folder, ("set/*/*.tar", "tar"), ("set/*.txt", "txt"))


def _described(number: int) -> tuple[tuple[str, bytes], ...]:
    label = json.dumps({"label": number % 2, "class": ("cat", "big dog")[number % 2]})
    return ("png", own_sets.picture(number)), ("json", label.encode())


def _open_shards(folder: Path, file: Path) -> bool:
    return _open(f"wds:{folder / 'set'}")


SUBJECTS = (
    Subject("manifests", 8, _manifests, _open_manifest),
    Subject("kept splits", 3, _kept_splits, _open_kept),
    Subject("folders with a split file", 4, _coop, _open_coop),
    Subject("aircraft lists", 4, _aircraft, _open_named("fgvc_aircraft")),
    Subject("imagenet archives", 5, _imagenet, _open_named("imagenet")),
    Subject("webdataset shards", 5, _shards, _open_shards),
)
