"""Checks before anything trains: images are readable, and disk and memory suffice.

`check_images` is the entry point for images; `check_disk` and `check_memory` compare the counts of
`needs.py` with the machine. A run that is bound to fail ends before its first fit.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import ItemList, Run, digest_of, label_counts, packed, parts
from fewshot_bench.api.spec import RunSpec, canonical_json
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.images.decode import list_lost_training
from fewshot_bench.splits.draw import split_key, split_of
from fewshot_bench.utils.errors import FsbenchError, PluginError, keys
from fewshot_bench.utils.files import free_bytes
from fewshot_bench.utils.memory import free_host_memory
from fewshot_bench.utils.text import plain_text, size_text

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
        step = f"name only {fit} in --device"
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
    """PluginError for lists that cannot be used, or for classes without train images."""
    check_lists(card, pools)
    trained = label_counts(pools.get("train", ()))
    absent = [title for label, title in enumerate(card.classnames) if label not in trained]
    if trained and absent:
        raise PluginError(
            f"{card.name}: class '{absent[0]}' has no train images ({len(absent)} of "
            f"{len(card.classnames)} classes have none): add some, or take the class out of the "
            "class names"
        )


def check_lists(card: DatasetCard, pools: Mapping[str, Sequence[Item]]) -> None:
    """PluginError for pools of items that contradict the card, or hold an image twice."""
    name, classnames = card.name, card.classnames
    keys(f"{name}: items()", pools, ROLES)
    if card.class_ids and len(set(card.class_ids)) != len(classnames):
        raise PluginError(
            f"{name}: its card has {len(classnames)} class names and {len(set(card.class_ids))} "
            "distinct class_ids: expected one id per class, or none"
        )
    _check_classnames(card)
    for part in (part for items in pools.values() for part in parts(items)):
        if not 0 <= part.label < len(classnames):
            raise PluginError(
                f"{name}: item '{part.ids[0]}' has label {part.label}, expected 0 to "
                f"{len(classnames) - 1} (there are {len(classnames)} class names)"
            )
        if part.classname != classnames[part.label]:
            raise PluginError(
                f"{name}: item '{part.ids[0]}' has label {part.label} and class name "
                f"'{part.classname}', and the card's class {part.label} is "
                f"'{classnames[part.label]}': expected the name of the label (are labels shifted?)"
            )
    for id, first, second in _find_duplicates(pools):
        if first == second:
            raise PluginError(
                f"{name}: item '{id}' is twice in {first}: expected one item per id; take one out"
            )
        raise PluginError(
            f"{name}: item '{id}' is in {first} and in {second}: a test image must not be trained "
            "on; take it out of one pool"
        )


def revision_of(name: str, dataset: Dataset) -> str:
    """Identity of a data set's item lists, as stored in specifications."""
    pools, card = dataset.items(), dataset.card()
    check_items(card, pools)
    lists = digest_of((role, pools.get(role, ())) for role in ROLES)
    if card.revision:
        return f"{card.revision}:{lists[:16]}"
    # Without a revision, the identity also covers all card facts that can change a number.
    said = canonical_json([card.classnames, card.custom_templates, card.identities, card.mirrored])
    return hashlib.sha256(f"{lists}\n{said}".encode()).hexdigest()[:16]


def _check_classnames(card: DatasetCard) -> None:
    """PluginError for a class name that no prompt can hold, or for a name of two classes."""
    labels: dict[str, int] = {}
    for label, title in enumerate(card.classnames):
        if not title.strip() or not plain_text(title):
            raise PluginError(
                f"{card.name}: the class name of label {label} is {title!a}: expected text "
                "without control characters (mend it in the card)"
            )
        if labels.setdefault(title, label) != label and not card.class_ids:
            raise PluginError(
                f"{card.name}: labels {labels[title]} and {label} are both named '{title}': "
                "expected distinct class names, or class_ids that tell the classes apart"
            )


def _find_duplicates(pools: Mapping[str, Sequence[Item]]) -> Iterator[tuple[str, str, str]]:
    """Ids that occur twice, with the roles of both places; compared folder by folder."""
    if not any(isinstance(items, ItemList) for items in pools.values()):
        # Packing tuples takes longer than comparing their ids, which already exist.
        ids = [item.id for items in pools.values() for item in items]
        if len(set(ids)) == len(ids):
            return
    folders: dict[str, list[tuple[str, Run]]] = {}
    for role, items in pools.items():
        for run in packed(items).runs:
            folders.setdefault(run.folder, []).append((role, run))
    for folder, runs in folders.items():
        listed = [(role, run.names.listed()) for role, run in runs]
        if len({name for _, names in listed for name in names}) == sum(len(n) for _, n in listed):
            continue
        first: dict[str, str] = {}
        for role, names in listed:
            for name in names:
                if name in first:
                    yield folder + name, first[name], role
                first.setdefault(name, role)


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
    called once if the findings cannot be cached for the next run, `note` for each data set that
    has images with an EXIF orientation.
    """
    from fewshot_bench.images.decode import find_unreadable
    from fewshot_bench.utils.cache_dir import limit_bytes

    limit_bytes()
    problems: dict[str, str] = {}
    unkept: list[str] = []
    used = [name for cell in cells for name in (cell.dataset, cell.target) if name]
    for name in dict.fromkeys(used):
        try:
            items = _items(name, datasets, cells)
            bad, turned, trouble = find_unreadable(datasets[name], items)
        except FsbenchError as error:
            problems[name] = str(error)
            continue
        unkept += [trouble] if trouble else []
        if turned:
            note(_describe_turned(name, turned, len(items), {cell.exif for cell in cells}))
        if bad:
            problems[name] = _unusable(name, datasets[name], bad)
    if unkept:
        warn(unkept[0])
    return problems


def long_prompts(datasets: Mapping[str, Dataset], cells: Iterable[RunSpec]) -> Iterator[str]:
    """A warning for each data set with prompts of more tokens than the text encoder reads."""
    from fewshot_bench.backbones.prompt_lengths import too_long

    used = {(cell.target or cell.dataset, cell.prompts, cell.backbone): None for cell in cells}
    for name, prompts, backbone in used:
        card = datasets[name].card()
        asked = Vocabulary(card.classnames, card.templates(prompts))
        texts = [text for template in asked.templates for text in asked.prompts(template)]
        if lengths := too_long(backbone, texts):
            longest = max(lengths, key=lambda text: lengths[text])
            example = f"{lengths[longest]} ('{longest[:60]}...')"
            yield (
                f"{name}: {len(lengths):,} of {len(texts):,} prompts have more tokens than the "
                f"text encoder of {backbone} reads, the longest {example}: cells of "
                "methods that encode them fail; shorten the class names (--classnames) "
                "or the templates"
            )


def _describe_turned(name: str, count: int, total: int, ways: set[str]) -> str:
    done = "which is applied (--exif rotate)"
    if "ignore" in ways:
        done = "which is left alone, as open_clip leaves it (--exif rotate applies it)"
    return f"{name}: {count:,} of {total:,} images carry an EXIF orientation, {done}"


def _unusable(name: str, dataset: Dataset, bad: Mapping[str, str]) -> str:
    """The message for bad images, with the next step; names training classes that lose them all."""
    lines = [f"{id}: {reason}" for id, reason in bad.items()]
    rest = len(lines) - UNREADABLE_SHOWN
    more = f"; and {rest} more" if rest > 0 else ""
    lost = list_lost_training(dataset, bad)
    whole = f", {lost} among them" if lost else ""
    # Nothing can be trained on a class without images.
    skip = "" if lost else "; --skip-damaged goes on without them"
    return (
        f"{name}: {len(lines)} of its images cannot be used{whole}: "
        f"{'; '.join(lines[:UNREADABLE_SHOWN])}{more}; mend or restore these files"
        f"{_below(dataset)} (fsbench data verify {shlex.quote(name)} lists all{skip})"
    )


def _below(dataset: Dataset) -> str:
    folder = dataset.card().folder
    return f" below {folder}" if folder else ""


def _items(name: str, datasets: Mapping[str, Dataset], cells: Sequence[RunSpec]) -> list[Item]:
    """The images to check of a data set that cells are fitted on, or evaluated on."""
    pools = datasets[name].items()
    if sum(len(pool) for pool in pools.values()) <= ALL_CHECKED:
        return [item for pool in pools.values() for item in pool]
    items: dict[str, Item] = {}
    for cell in {split_key(cell): cell for cell in cells}.values():
        if cell.dataset == name or cell.target == name:
            items |= {item.id: item for item in _list_used(name, datasets, cell)}
    return list(items.values())


def _list_used(name: str, datasets: Mapping[str, Dataset], cell: RunSpec) -> Iterable[Item]:
    """The images of one data set that a cell uses; imported picks are checked as they are used."""
    split = split_of(cell, datasets)
    evaluated = split.test if name == (cell.target or cell.dataset) else ()
    fitted = (*split.train, *split.val) if name == cell.dataset else ()
    return (*fitted, *evaluated)
