"""Checks of a data set's lists against published facts with `list_checks`; reads no image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from fewshot_bench.api.dataset import ROLES, DatasetCard
from fewshot_bench.api.items import digest_of
from fewshot_bench.api.split_file import Pools
from fewshot_bench.runner.preflight import check_lists
from fewshot_bench.splits.published import (
    Lists,
    PublishedSplit,
    compare_lists,
    published_splits,
    read_published_draws,
    verify_file,
)
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.text import shortened

OK: Final = "ok"
DIFFERS: Final = "differs"
FAILED: Final = "FAILED"
State = Literal["ok", "differs", "FAILED"]

INCOMPARABLE = "not the published split: numbers cannot be compared with published ones"


@dataclass(frozen=True)
class Check:
    """The outcome of one check: one line, and details that are shown below it."""

    name: str
    state: State
    text: str
    details: tuple[str, ...] = ()


def list_checks(card: DatasetCard, pools: Pools) -> Iterator[Check]:
    """Check the pools and their counts and, if lists are published, split, its file and draws."""
    yield _labels(card, pools)
    yield _counts(card, pools)
    name = match_published(card.name, pools)
    if name is not None:
        yield from _check_published(name, card, pools)


def match_published(name: str, pools: Pools) -> str | None:
    """Name of the published split to compare a data set with, by its name or by its lists."""
    splits = published_splits()
    if name in splits:
        return name
    digest = digest_of((role, pools.get(role, ())) for role in ROLES)
    return next((other for other, split in splits.items() if split.lists_sha256 == digest), None)


def is_published(card: DatasetCard, pools: Pools) -> bool:
    """True when the lists of a data set are published ones, under whatever class names."""
    name = match_published(card.name, pools)
    return name is not None and compare_lists(pools, name) in (Lists.EQUAL, Lists.RENAMED)


def expected_classes(card: DatasetCard) -> int | None:
    """Number of classes of the published set; None if unknown."""
    split = published_splits().get(card.name)
    return card.expected_classes or (split.classes if split else None)


def role_counts(counts: Mapping[str, int]) -> tuple[int, ...]:
    """Images in train, val and test; 0 for a role that is absent."""
    return tuple(counts.get(role, 0) for role in ROLES)


def pool_counts(pools: Pools) -> tuple[int, ...]:
    """Images in train, val and test."""
    return role_counts({role: len(pools.get(role, ())) for role in ROLES})


def join_counts(counts: tuple[int, ...]) -> str:
    """Counts as they are shown: 2,820/1,128/1,692."""
    return "/".join(f"{count:,}" for count in counts)


def _labels(card: DatasetCard, pools: Pools) -> Check:
    total = sum(pool_counts(pools))
    if not total:
        return Check("lists", FAILED, "no images are listed in train, val or test")
    wrong = [
        f"{role} {item.id}: label {item.label}, class name '{item.classname}'"
        for role in ROLES
        for item in pools.get(role, ())
        if item.label < 0 or card.classnames[item.label : item.label + 1] != (item.classname,)
    ]
    if wrong:
        text = f"{len(wrong):,} images have a label or class name that is not in the class list"
        return Check("lists", FAILED, text, shortened(wrong))
    try:
        check_lists(card, pools)
    except FsbenchError as error:
        return Check("lists", FAILED, str(error))
    loaded = [role for role in ROLES if pools.get(role)]
    return Check("lists", OK, f"{', '.join(loaded)} loaded; every label is in the class list")


def _counts(card: DatasetCard, pools: Pools) -> Check:
    classes, counts = len(card.classnames), pool_counts(pools)
    text = f"{classes:,} classes, {join_counts(counts)} images (train/val/test)"
    if not card.expected_counts:
        return Check("counts", OK, f"{text}; no published counts to compare with")
    expected, expected_count = role_counts(card.expected_counts), expected_classes(card)
    if counts == expected and expected_count in (None, classes):
        return Check("counts", OK, f"{text}, as published")
    published = (
        join_counts(expected)
        if expected_count is None
        else f"{expected_count:,} classes, {join_counts(expected)}"
    )
    return Check("counts", DIFFERS, f"{text}; published: {published}; {INCOMPARABLE}")


def _check_published(name: str, card: DatasetCard, pools: Pools) -> Iterator[Check]:
    split = published_splits()[name]
    verdict = compare_lists(pools, name)
    if verdict is Lists.EQUAL:
        yield Check("split", OK, f"equals the published lists of {name}")
        yield from _split_file(name, split, card)
    elif verdict is Lists.RENAMED:
        yield Check("split", DIFFERS, f"{split.file}: {verdict.value}")
    else:
        yield Check("split", DIFFERS, f"the lists differ from {split.file}: {INCOMPARABLE}")
    yield _draws(name, split, pools)


def _split_file(name: str, split: PublishedSplit, card: DatasetCard) -> Iterator[Check]:
    """Check the bytes of a split file in the folder of the images or up to two levels above."""
    folder = Path(card.folder)
    places = [folder, *folder.resolve().parents[:2]] if card.folder else []
    path = next((level / split.file for level in places if (level / split.file).is_file()), None)
    if path is None:
        return
    if verify_file(path.read_bytes(), name):
        yield Check("split file", OK, f"{split.file} is the published file, byte for byte")
    else:
        text = (
            f"{path} has the published paths, labels and class names, but is not the published "
            "file: its formatting differs"
        )
        yield Check("split file", DIFFERS, text)


def _draws(name: str, split: PublishedSplit, pools: Pools) -> Check:
    draws = list(read_published_draws(name, "", pools))
    wrong = [f"{draw.shots}/{draw.seed}" for draw in draws if not draw.equal]
    total = len(split.picks)
    if not wrong:
        return Check("draws", OK, f"all {total} published few-shot draws are reproduced")
    text = f"{total - len(wrong)} of {total} published few-shot draws are reproduced"
    if len(wrong) < total:
        text += f"; not those of shots/seed {', '.join(wrong)}"
    return Check("draws", DIFFERS, text)
