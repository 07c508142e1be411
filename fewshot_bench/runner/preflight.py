"""Checks before anything trains: images are readable, and disk and memory suffice.

`check_images` is the entry point for images; `check_disk` and `check_memory` compare the counts of
`needs.py` with the machine. A run that is bound to fail ends before its first fit.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Run, label_counts, packed, parts
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.images.usable import lost_in_training
from fewshot_bench.splits.draw import split_key, split_of
from fewshot_bench.utils.errors import FsbenchError, PluginError
from fewshot_bench.utils.files import free_bytes
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.mistyped import keys
from fewshot_bench.utils.text import size_text

if TYPE_CHECKING:
    from fewshot_bench.api.dataset import Dataset, DatasetCard
    from fewshot_bench.api.items import Item

SPARE_BYTES = 2**24


class NoRoomError(FsbenchError):
    """Disk or memory cannot hold what a run needs."""


def check_disk(store: Path, bytes_needed: int) -> None:
    """NoRoomError if the store's file system has too little free space, or does not report it."""
    try:
        free = free_bytes(store)
    except OSError as error:
        raise NoRoomError(
            f"'{store}': cannot tell how much space is left there ({error.strerror}); check that "
            "the disk is there, or choose another store"
        ) from error
    if free < bytes_needed + SPARE_BYTES:
        raise NoRoomError(
            f"the results need up to {size_text(bytes_needed)}, {size_text(SPARE_BYTES)} must stay "
            f"free, and '{store}' has {size_text(free)} left; make room, choose another disk for "
            "the store, or ask for fewer cells"
        )


def check_memory(workers: int, bytes_each: int, devices: int = 1) -> None:
    """NoRoomError if the workers of all devices together do not fit into the free memory."""
    free = free_host_memory()
    if free >= workers * bytes_each:
        return
    fit = free // bytes_each
    if fit >= devices:
        step = f"use --jobs {fit // devices}"
    elif fit:
        step = f"name only {fit} in --devices"
    else:
        step = "end other programs, or take a smaller backbone"
    raise NoRoomError(
        f"{workers} workers need {size_text(workers * bytes_each)} of memory or more and "
        f"{size_text(free)} is free; {step}"
    )


def tight_memory(workers: int, most_each: int) -> str:
    """A warning if the workers may come to need more than the free memory; empty otherwise."""
    free = free_host_memory()
    if free >= workers * most_each:
        return ""
    fewer = f"; --jobs {max(1, free // most_each)} is safe" if workers > 1 else ""
    return (
        f"{workers} worker{'s'[: workers != 1]} may take up to {size_text(workers * most_each)} of "
        f"memory and {size_text(free)} is free{fewer}"
    )


UNREADABLE_SHOWN = 5
ALL_CHECKED = 20_000


def check_items(card: DatasetCard, pools: Mapping[str, Sequence[Item]]) -> None:
    """PluginError for bad labels, classes without train images, or an image in two pools."""
    name, classnames = card.name, card.classnames
    keys(f"{name}: items()", pools, ROLES)
    if card.class_ids and len(set(card.class_ids)) != len(classnames):
        raise PluginError(
            f"{name}: its card has {len(classnames)} class names and {len(set(card.class_ids))} "
            "distinct class_ids: expected one id per class, or none"
        )
    for part in (part for items in pools.values() for part in parts(items)):
        if not 0 <= part.label < len(classnames):
            raise PluginError(
                f"{name}: item '{part.ids[0]}' has label {part.label}, expected 0 to "
                f"{len(classnames) - 1} (there are {len(classnames)} class names)"
            )
    for id, first, second in _in_two(pools):
        raise PluginError(
            f"{name}: item '{id}' is in {first} and in {second}: a test image must not be trained "
            "on; take it out of one pool"
        )
    trained = label_counts(pools.get("train", ()))
    absent = [title for label, title in enumerate(classnames) if label not in trained]
    if trained and absent:
        raise PluginError(
            f"{name}: class '{absent[0]}' has no train images ({len(absent)} of {len(classnames)} "
            "classes have none): add some, or take the class out of the class names"
        )


def _in_two(pools: Mapping[str, Sequence[Item]]) -> Iterator[tuple[str, str, str]]:
    """Ids that are in two pools, with both roles; compared folder by folder."""
    folders: dict[str, list[tuple[str, Run]]] = {}
    for role, items in pools.items():
        for run in packed(items).runs:
            folders.setdefault(run.folder, []).append((role, run))
    for folder, runs in folders.items():
        first: dict[str, str] = {}
        for role, run in runs if len({role for role, _ in runs}) > 1 else ():
            for name in run.names.listed():
                if first.setdefault(name, role) != role:
                    yield folder + name, first[name], role


def keep_splits(datasets: Mapping[str, Dataset], where: str, *, but: Container[str] = ()) -> None:
    """Write the splits that data sets made of a user's images: into the store or beside the data.

    Call it before the first cell, whose worker reads them, and after the image check: a damaged
    image must not be in a split that stays. but: data sets with damaged images, which are skipped.
    """
    from fewshot_bench.api.dataset import Keeping

    for name, dataset in datasets.items():
        if name not in but and isinstance(dataset, Keeping):
            dataset.keep_split(beside=where == "data")


def check_images(
    datasets: Mapping[str, Dataset],
    cells: Sequence[RunSpec],
    warn: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Decode images not verified before; returns a problem for each data set with bad images.

    Checks all images of a data set of up to `ALL_CHECKED`, else those that `cells` use. `warn` is
    called once if the findings cannot be cached for the next run, `tell` for each data set that
    has images with an EXIF orientation.
    """
    from fewshot_bench.images.decode import unreadable
    from fewshot_bench.utils.cache_dir import limit_bytes

    limit_bytes()
    problems: dict[str, str] = {}
    unkept: list[str] = []
    used = [name for cell in cells for name in (cell.dataset, cell.target) if name]
    for name in dict.fromkeys(used):
        try:
            items = _items(name, datasets, cells)
            bad, turned, trouble = unreadable(datasets[name], items)
        except FsbenchError as error:
            problems[name] = str(error)
            continue
        unkept += [trouble] if trouble else []
        if turned:
            note(_turned(name, turned, len(items), {cell.exif for cell in cells}))
        if bad:
            problems[name] = _unusable(name, datasets[name], bad)
    if unkept:
        warn(unkept[0])
    return problems


def _turned(name: str, count: int, total: int, ways: set[str]) -> str:
    done = "which is applied (--exif rotate)"
    if "ignore" in ways:
        done = "which is left alone, as open_clip leaves it (--exif rotate applies it)"
    return f"{name}: {count:,} of {total:,} images carry an EXIF orientation, {done}"


def _unusable(name: str, dataset: Dataset, bad: Mapping[str, str]) -> str:
    """The message for bad images, with the next step; names training classes that lose them all."""
    lines = [f"{id}: {reason}" for id, reason in bad.items()]
    rest = len(lines) - UNREADABLE_SHOWN
    more = f"; and {rest} more" if rest > 0 else ""
    lost = lost_in_training(dataset, bad)
    whole = f", {lost} among them" if lost else ""
    # Nothing can be trained on a class without images.
    skip = "" if lost else "; --skip-damaged goes on without them"
    return (
        f"{name}: {len(lines)} of its images cannot be used{whole}: "
        f"{'; '.join(lines[:UNREADABLE_SHOWN])}{more}; mend or restore these files"
        f"{_below(dataset)} (fsbench data verify {name} lists all{skip})"
    )


def _below(dataset: Dataset) -> str:
    folder = dataset.card().folder
    return f" below {folder}" if folder else ""


def _items(name: str, datasets: Mapping[str, Dataset], cells: Sequence[RunSpec]) -> list[Item]:
    """The images to check of a data set that cells are fitted on, or evaluated on."""
    pools = datasets[name].items()
    if sum(len(pool) for pool in pools.values()) <= ALL_CHECKED:
        return [item for pool in pools.values() for item in pool]
    found: dict[str, Item] = {}
    for cell in {split_key(cell): cell for cell in cells}.values():
        if cell.dataset == name or cell.target == name:
            found |= {item.id: item for item in _used(name, datasets, cell)}
    return list(found.values())


def _used(name: str, datasets: Mapping[str, Dataset], cell: RunSpec) -> Iterable[Item]:
    """The images of one data set that a cell uses; imported picks are checked as they are used."""
    split = split_of(cell, datasets)
    evaluated = split.test if name == (cell.target or cell.dataset) else ()
    fitted = (*split.train, *split.val) if name == cell.dataset else ()
    return (*fitted, *evaluated)
