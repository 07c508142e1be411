"""From the paths in a split file to the items of a data set."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.task import Item
from fewshot_bench.splits.coop import Pools
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import few

DRIVE = re.compile(r"^[A-Za-z]:")


def find_items(paths: Iterable[str], known: Mapping[str, Item]) -> list[list[Item]]:
    """The items that each path may mean: one, none, or several when it is ambiguous.

    known: a data set's items by id. The longest id that a path ends in is meant; only where there
    is none, the path may be the end of an id itself.
    """
    listed = list(paths)
    found = {path: _by_whole_id(path, known) for path in listed}
    wanted = {"/".join(_parts(path)) for path, item in found.items() if item is None}
    ends = _by_end(known, wanted) if wanted else {}
    return [_found(path, found[path], ends) for path in listed]


def _found(path: str, item: Item | None, ends: Mapping[str, list[Item]]) -> list[Item]:
    return ends.get("/".join(_parts(path)), []) if item is None else [item]


def _by_whole_id(path: str, known: Mapping[str, Item]) -> Item | None:
    parts = _parts(path)
    ends = (path, *("/".join(parts[start:]) for start in range(len(parts))))
    return next((known[end] for end in ends if end in known), None)


def _by_end(known: Mapping[str, Item], wanted: Collection[str]) -> dict[str, list[Item]]:
    """Items by those ends of their ids that are wanted; an index of all ends may be too large."""
    found: dict[str, list[Item]] = {}
    for item in known.values():
        parts = item.id.split("/")
        for start in range(1, len(parts)):
            end = "/".join(parts[start:])
            if end in wanted:
                found.setdefault(end, []).append(item)
    return found


def mapped(file: SplitFile, pools: Pools, dataset: str) -> SplitFile:
    """The same lists as items of the data set.

    DataMissingError counts and names images that are not in the data set, that may be several of
    its images, or whose label or class name is another one there.
    """
    known = {item.id: item for role in ROLES for item in pools.get(role, ())}
    written = [item.id for items in file.lists.values() for item in items]
    found = find_items(written, known)
    _refuse_missing(file, dataset, written, found, next(iter(known), "none"))
    meant = iter(found)
    lists = {role: tuple(next(meant)[0] for _ in items) for role, items in file.lists.items()}
    _refuse_other_labels(file, dataset, lists)
    return replace(file, lists=lists)


def _parts(path: str) -> list[str]:
    """The parts of a path from any system; a backslash separates where no slash does."""
    if DRIVE.match(path) or "/" not in path:
        path = path.replace("\\", "/")
    return [part for part in path.split("/") if part not in ("", ".")]


def _refuse_missing(
    file: SplitFile,
    dataset: str,
    written: Sequence[str],
    found: Sequence[list[Item]],
    example: str,
) -> None:
    absent = [path for path, items in zip(written, found, strict=True) if not items]
    if absent:
        raise DataMissingError(
            f"{len(absent)} of {len(found)} images in {file.path} are not in '{dataset}': "
            f"{few(absent)}; expected paths that end in ids such as '{example}' "
            f"(fsbench splits show {dataset})"
        )
    several = [path for path, items in zip(written, found, strict=True) if len(items) > 1]
    if several:
        one, other = next(items for items in found if len(items) > 1)[:2]
        raise DataMissingError(
            f"{len(several)} of {len(found)} paths in {file.path} may be several images of "
            f"'{dataset}': {few(several)} ('{one.id}' or '{other.id}'); expected longer paths"
        )


def _refuse_other_labels(file: SplitFile, dataset: str, lists: Pools) -> None:
    differing = [
        (written, item)
        for role, items in lists.items()
        for written, item in zip(file.lists[role], items, strict=True)
        if (written.label, written.classname) != (item.label, item.classname)
    ]
    if differing:
        written, item = differing[0]
        raise DataMissingError(
            f"{len(differing)} images have another class in {file.path} than in '{dataset}': "
            f"'{item.id}' is {written.label} '{written.classname}' in the file and "
            f"{item.label} '{item.classname}' in the data set; expected the same labels and names"
        )
