"""Helpers for tests of `fsbench store merge`: the command, its results, imported picks."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.splits.imported import path_of_import
from fewshot_bench.store.store import Store
from tests.support.helpers import Result, fsbench
from tests.support.store_cases import QUERIES, contents

IDS = [f"q{number}" for number in range(QUERIES)]


def merge(destination: Store, *sources: Store | Path, dry_run: bool = False) -> Result:
    """Merge stores into `destination` with `fsbench store merge`."""
    folders = [source.path if isinstance(source, Store) else source for source in sources]
    flags = ["--dry-run"] if dry_run else []
    return fsbench("store", "merge", *folders, "--store", destination.path, *flags)


def results(store: Store) -> dict[str, bytes]:
    """Bytes of records and logits files, by path."""
    found = contents(store.path).items()
    return {name: file for name, (file, _) in found if name.startswith("records/")}


def picks(store: Path, seed: int = 1, val: str = "min4") -> Path:
    """Import picks of a demo data set for a seed into a store; return the stored file's path."""
    file = store.parent / f"{store.name}.json"
    words = ("--shots", "2", "--seeds", str(seed), "--val", val, "-O", file, "--force")
    assert fsbench("splits", "export", "shapes", *words).code == 0
    flags = ("--dataset", "shapes", "--shots", "2", "--seed", seed, "--store", store)
    assert fsbench("splits", "import", file, *flags).code == 0
    return path_of_import(store, "shapes", 2, seed)
