"""Checks of split files, and mapping of the paths in a file to items of a data set.

Every check returns a line with its result, or raises DataMissingError. `map_to_items` returns a
file's lists as items of a data set; checks that need such lists state it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item
from fewshot_bench.api.split_file import Pools
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import few, shown

DRIVE = re.compile(r"^[A-Za-z]:")


def check_digest(file: SplitFile) -> str:
    """Return the digest; for our format, check that the file states the same."""
    if file.format == "fsbench" and file.stated != file.digest:
        raise DataMissingError(
            f"{file.path} states the digest {shown(file.stated)} and its lists have {file.digest}: "
            "it was changed after it was written (export it again, or restore it)"
        )
    return file.digest


def check_overlap(file: SplitFile) -> str:
    """Check that no image is in two lists."""
    first: dict[str, str] = {}
    twice = []
    for role in ROLES:
        for id in dict.fromkeys(item.id for item in file.lists.get(role, ())):
            if first.setdefault(id, role) != role:
                twice.append(f"{id} ({first[id]}, {role})")
    if twice:
        raise DataMissingError(
            f"{len(twice)} images of {file.path} are in two lists: {few(twice)}; expected train, "
            "val and test images without overlap"
        )
    return f"no image is in two of {', '.join(r for r in ROLES if file.lists.get(r))}"


def check_classes(file: SplitFile) -> str:
    """Check that every label has one name, and every name one label."""
    names: dict[int, str] = {}
    for items in file.lists.values():
        for item in items:
            if names.setdefault(item.label, item.classname) != item.classname:
                raise DataMissingError(
                    f"label {item.label} has two names in {file.path}, '{names[item.label]}' and "
                    f"'{item.classname}': expected one name per label"
                )
    return f"{len(names)} labels, each with one class name"


def check_pools(file: SplitFile, pools: Pools, dataset: str) -> str:
    """Check that picks come from the data set's train and val lists, never from its test list.

    A val pick may be a test image where the data set's own val list holds it.
    `file` must hold items of the data set (`map_to_items`).
    """
    ids = {role: {item.id for item in pools.get(role, ())} for role in ROLES}
    kept = {"train": ids["test"], "val": ids["test"] - ids["val"]}
    for role, forbidden in kept.items():
        leaked = [item.id for item in file.lists.get(role, ()) if item.id in forbidden]
        if leaked:
            raise DataMissingError(
                f"{len(leaked)} {role} images of {file.path} are test images of '{dataset}': "
                f"{few(leaked)}; expected images of its train and val lists"
            )
    return f"no train or val image is a test image of {dataset}"


def check_shots(file: SplitFile, pools: Pools, dataset: str) -> str:
    """Check that the draw has its stated shots, or all images, and an image of every class.

    `file` must hold items of the data set (`map_to_items`); without `shots` the check fails.
    """
    counts = Counter(item.label for item in file.lists["train"])
    names = {item.label: item.classname for item in pools.get("train", ())}
    absent = [names[label] for label in sorted(names) if not counts[label]]
    if absent:
        raise DataMissingError(
            f"{file.path} has no train image for {len(absent)} of {len(names)} classes of "
            f"'{dataset}': {few(absent)}; expected {file.shots} per class"
        )
    most = max(counts.values(), default=0)
    sizes = Counter(item.label for item in pools.get("train", ()))
    more_to_take = any(counts[label] < size for label, size in sizes.items())
    if file.shots is None or most > file.shots or (most < file.shots and more_to_take):
        raise DataMissingError(
            f"{file.path} has up to {most} train images per class, expected {file.shots} (--shots)"
        )
    return (
        f"{len(names)} classes, {file.shots} train images each (fewer where the lists have fewer)"
    )


def check_positions(written: SplitFile, file: SplitFile, pools: Pools, dataset: str) -> str:
    """Check that indices are the positions of the images in the data set's lists.

    `file` is `written` with items of the data set.
    """
    wrong = []
    for role, positions in written.positions.items():
        pool = pools.get(role, ())
        for item, position in zip(file.lists[role], positions, strict=True):
            if position >= len(pool) or pool[position].id != item.id:
                wrong.append(f"{role} {position}")
    if wrong:
        total = sum(map(len, written.positions.values()))
        raise DataMissingError(
            f"{len(wrong)} of {total} positions in {written.path} are not those of the images in "
            f"the lists of '{dataset}': {few(wrong)}; the lists were in another order"
        )
    return f"all positions are those of the lists of {dataset}"


def find_items(paths: Collection[str], items_by_id: Mapping[str, Item]) -> list[list[Item]]:
    """The items that match each path: one, none, or several if it is ambiguous.

    items_by_id: of a data set. A path matches the longest id that it ends in; only without one, it
    matches ids that end in the path.
    """
    matches: dict[str, list[Item]] = {}
    shorter: dict[str, list[Item]] = {}
    for path in paths:
        parts = _parts(path)
        ends = (path, *("/".join(parts[start:]) for start in range(len(parts))))
        whole = next((items_by_id[end] for end in ends if end in items_by_id), None)
        # The items that end in a path, which are looked for below, are one list.
        matches[path] = [whole] if whole else shorter.setdefault("/".join(parts), [])
    for item in items_by_id.values() if shorter else ():
        parts = item.id.split("/")
        for start in range(1, len(parts)):
            end = "/".join(parts[start:])
            if end in shorter:
                shorter[end].append(item)
    return [matches[path] for path in paths]


def map_to_items(file: SplitFile, pools: Pools, dataset: str) -> SplitFile:
    """The file with its lists mapped to items of the data set.

    DataMissingError counts and names images that are not in the data set, that match several of its
    images, or whose label or class name differs there.
    """
    items_by_id = {item.id: item for role in ROLES for item in pools.get(role, ())}
    written = [item for items in file.lists.values() for item in items]
    matches = find_items([item.id for item in written], items_by_id)
    pairs = list(zip(written, matches, strict=True))
    absent = [item.id for item, items in pairs if not items]
    if absent:
        example = next(iter(items_by_id), "none")
        raise DataMissingError(
            f"{len(absent)} of {len(pairs)} images in {file.path} are not in '{dataset}': "
            f"{few(absent)}; expected paths that end in ids such as '{example}' "
            f"(fsbench splits show {shlex.quote(dataset)})"
        )
    several = [(item.id, items) for item, items in pairs if len(items) > 1]
    if several:
        first, second = several[0][1][:2]
        raise DataMissingError(
            f"{len(several)} of {len(pairs)} paths in {file.path} may be several images of "
            f"'{dataset}': {few(id for id, _ in several)} ('{first.id}' or '{second.id}'); "
            "expected longer paths"
        )
    meant = [items[0] for items in matches]
    differing = [
        (item, other)
        for item, other in zip(written, meant, strict=True)
        if (item.label, item.classname) != (other.label, other.classname)
    ]
    if differing:
        item, other = differing[0]
        raise DataMissingError(
            f"{len(differing)} images have another class in {file.path} than in '{dataset}': "
            f"'{other.id}' is {item.label} '{item.classname}' in the file and "
            f"{other.label} '{other.classname}' in the data set; expected the same labels and names"
        )
    left = iter(meant)
    lists = {role: tuple(islice(left, len(items))) for role, items in file.lists.items()}
    return replace(file, lists=lists)


def _parts(path: str) -> list[str]:
    """The parts of a path from any system; backslashes separate after a drive or without `/`."""
    if DRIVE.match(path) or "/" not in path:
        path = path.replace("\\", "/")
    return [part for part in path.split("/") if part not in ("", ".")]
