"""What must be true of a split file; each check returns what it found, or raises."""

from __future__ import annotations

from collections import Counter

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.splits.coop import Pools
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.utils.errors import DataMissingError
from fewshot_bench.utils.text import few, shown


def check_digest(file: SplitFile) -> str:
    """The digest; in a file of ours, when it is the one that the file states."""
    if file.format == "fsbench" and file.stated != file.digest:
        raise DataMissingError(
            f"{file.path} states the digest {shown(file.stated)} and its lists have {file.digest}: "
            "it was changed after it was written (export it again, or restore it)"
        )
    return file.digest


def check_overlap(file: SplitFile) -> str:
    """That no image is in two lists."""
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
    """That every label has one name, and every name one label."""
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
    """That picks come from the data set's train and val lists, never from its test list.

    A val pick may be a test image where the data set's own val list holds it.
    `file` holds items of the data set (`mapping.mapped`).
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
    """That the draw has the shots it is said to have, or all images, and one of every class.

    `file` holds items of the data set and has `shots`.
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
    return f"{len(names)} classes, {file.shots} train images each (fewer where a class has fewer)"


def check_positions(written: SplitFile, file: SplitFile, pools: Pools, dataset: str) -> str:
    """That indices are the positions of the images in the data set's lists.

    `file` is `written` with items of the data set.
    """
    wrong = []
    for role, positions in written.positions.items():
        pool = pools.get(role, ())
        for item, place in zip(file.lists[role], positions, strict=True):
            if place >= len(pool) or pool[place].id != item.id:
                wrong.append(f"{role} {place}")
    if wrong:
        total = sum(map(len, written.positions.values()))
        raise DataMissingError(
            f"{len(wrong)} of {total} positions in {written.path} are not those of the images in "
            f"the lists of '{dataset}': {few(wrong)}; the lists were in another order"
        )
    return f"all positions are those of the lists of {dataset}"
