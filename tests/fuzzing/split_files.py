"""Readers of split files, and of imported picks."""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewshot_bench.api.registry import registry
from fewshot_bench.api.split_file import load_split
from fewshot_bench.splits import checks
from fewshot_bench.splits.checks import map_to_items
from fewshot_bench.splits.formats import ours_text, read_split_file, text_of
from fewshot_bench.splits.imported import load_imported
from fewshot_bench.splits.model import SplitFile, lists_digest, with_setting
from fewshot_bench.utils.errors import FsbenchError
from tests.fuzzing.commands import run
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support.split_trees import write_small


def _lists(folder: Path) -> tuple[str, Any]:
    name = write_small(folder)
    return name, registry().dataset(name).items()


def _picks(folder: Path) -> SplitFile:
    name, pools = _lists(folder)
    lists = {"train": (pools["train"][0], pools["train"][2]), "val": pools["val"]}
    digest = lists_digest(lists)
    return SplitFile(folder, "fsbench", lists, name, "r", "coop", 1, 1, digest)


def _splits(folder: Path) -> list[Seed]:
    picks, (_, pools) = _picks(folder), _lists(folder)
    (folder / "in").mkdir(exist_ok=True)
    whole = replace(picks, lists=pools)
    return [
        Seed("in/ours.json", ours_text(picks).encode(), "json"),
        Seed("in/coop.json", (folder / "split.json").read_bytes(), "json"),
        Seed("in/shot_1-seed_1.json", text_of(picks, "index", pools).encode(), "json"),
        Seed("in/list.jsonl", text_of(whole, "jsonl", pools).encode(), "jsonl"),
        *(Seed("in/shot_1-seed_2.pkl", _pickled(picks, number), "pickle") for number in (0, 2, 4)),
    ]


def _pickled(file: SplitFile, protocol: int) -> bytes:
    class Datum:
        """A class with the name used in CoOp's caches."""

    module = types.ModuleType("fsbench_fuzz_datum")
    Datum.__module__, Datum.__qualname__ = module.__name__, "Datum"
    vars(module)["Datum"] = Datum
    sys.modules[module.__name__] = module
    content: dict[str, list[Any]] = {}
    for role, items in file.lists.items():
        for item in items:
            datum = Datum()
            vars(datum).update(_impath=item.id, _label=item.label, _classname=item.classname)
            content.setdefault(role, []).append(datum)
    data = pickle.dumps(content, protocol)
    del sys.modules[module.__name__]
    return data


def _read_split(folder: Path, file: Path) -> bool:
    split = with_setting(read_split_file(file), None, None)
    for check in (checks.check_digest, checks.check_overlap, checks.check_classes):
        with suppress(FsbenchError):
            check(split)
    name, pools = f"coop:{folder}", load_split(folder / "split.json")
    found = map_to_items(split, pools, name)
    checks.check_pools(found, pools, name)
    checks.check_positions(split, found, pools, name)
    return True


def _import_split(folder: Path, file: Path) -> bool:
    where = ("--dataset", f"coop:{folder}", "--store", folder / "store")
    return run("splits", "import", file, *where)


def _imported(folder: Path) -> list[Seed]:
    picks = _picks(folder)
    file = folder / "ours.json"
    file.write_text(ours_text(picks))
    arguments = ("--dataset", f"coop:{folder}", "--shots", 1, "--seed", 1, "--store", folder)
    run("splits", "import", file, *arguments)
    return seeds_in(folder, ("splits/*/*.json", "json"))


def _load_imported(folder: Path, file: Path) -> bool:
    pools = load_split(folder / "split.json")
    return bool(load_imported(folder, f"coop:{folder}", 1, 1, pools).lists["train"])


SUBJECTS = (
    Subject("split files", 14, _splits, _read_split),
    Subject("splits import", 1, _splits, _import_split),
    Subject("imported splits", 4, _imported, _load_imported),
)
