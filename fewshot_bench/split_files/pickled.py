"""CoOp's few-shot caches `split_fewshot/shot_16-seed_1.pkl`, read without executing them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewshot_bench.dataset import ROLES
from fewshot_bench.errors import DataMissingError
from fewshot_bench.split_files.machine import Refused
from fewshot_bench.split_files.model import SplitFile, item_of, unusable
from fewshot_bench.split_files.opcodes import plain
from fewshot_bench.task import Item
from fewshot_bench.wording import shown

EXPECTED = "a dict with lists of Datum records under train and val, as CoOp writes it"
ATTRIBUTES = ("_impath", "_label", "_classname")


def read_pickled(path: Path, content: bytes) -> SplitFile:
    """The draw in a cache file; where it has no val list (ImageNet), none is returned.

    DataMissingError names what the file holds that does not belong there.
    """
    try:
        value = plain(content)
    except Refused as error:
        raise unusable(path, str(error), EXPECTED) from None
    if not isinstance(value, dict) or "train" not in value or not set(value) <= set(ROLES):
        found = f"the keys {shown(sorted(value))}" if isinstance(value, dict) else shown(value)
        raise unusable(path, f"has {found}", EXPECTED)
    lists = {role: tuple(_items(path, role, value[role])) for role in ROLES if role in value}
    return SplitFile(path, "pickle", lists)


def _items(path: Path, role: str, entries: Any) -> Iterator[Item]:
    if not isinstance(entries, list):
        raise _misplaced(path, role, entries)
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not set(ATTRIBUTES) <= set(entry):
            raise _misplaced(path, role, entry)
        values = [entry[attribute] for attribute in ATTRIBUTES]
        yield item_of(path, f"as entry {number} of '{role}'", *values)


def _misplaced(path: Path, role: str, value: object) -> DataMissingError:
    return unusable(path, f"has {shown(value)} under '{role}'", EXPECTED)
