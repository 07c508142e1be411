"""The published splits and draws, and comparison of picks with them or with a protocol's draw.

`verify_picks` gives the `verified` entry of a record's split; `read_published_draws` repeats all
published draws.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.resources import files

import msgspec

from fewshot_bench.api.dataset import ROLES
from fewshot_bench.api.items import Item, digest_of, parts
from fewshot_bench.api.split_file import Pools
from fewshot_bench.api.task import Split
from fewshot_bench.splits.draw import class_half, draw
from fewshot_bench.splits.model import SplitFile
from fewshot_bench.splits.sampling import VALIDATION, count_per_class
from fewshot_bench.utils.errors import FsbenchError, UsageError


class Lists(Enum):
    """The lists of a data set against the published ones; the value says it in words."""

    EQUAL = "equal to the published lists"
    RENAMED = (
        "NOT the published lists: their images under other class names, whose prompts, and so the "
        "numbers, cannot be compared with published ones"
    )
    OTHER = "NOT the published lists"
    UNKNOWN = "no published lists to compare with"


class PublishedSplit(msgspec.Struct, frozen=True):
    """One published split file and the draws from it.

    `file_sha256` covers the file's bytes, `lists_sha256` the lists (`items.digest_of`), which hold
    no class names. `classnames_sha256` covers the names of the base and of the new half of the
    classes (`names_digest`), and `picks` maps "shots/seed" to the digests of train and val picks
    under protocol `coop`.
    """

    file: str
    file_sha256: str
    lists_sha256: str
    classes: int
    classnames_sha256: dict[str, str]
    picks: dict[str, tuple[str, str]]


def picks_digest(items: Iterable[Item]) -> str:
    """SHA-256 of the newline-joined item ids, in drawing order."""
    return hashlib.sha256("\n".join(item.id for item in items).encode()).hexdigest()


def verify_picks(split: Split, catalog_name: str) -> bool | None:
    """True when a draw equals the published picks; None when none are published for its setting.

    Train picks must match. Val picks must match only if there are as many as published: for other
    validation policies nothing is published.
    """
    published = published_splits().get(catalog_name)
    expected = published.picks.get(f"{split.shots}/{split.seed}") if published else None
    if published is None or expected is None or split.protocol != "coop":
        return None
    if picks_digest(split.train) != expected[0]:
        return False
    comparable = len(split.val) == published.classes * min(split.shots, 4)
    return not comparable or picks_digest(split.val) == expected[1]


def compare_lists(pools: Pools, catalog_name: str) -> Lists:
    """Compare images, labels and class names with the published split.

    Of renamed lists, few-shot picks are the published ones, and prompts are not.
    """
    published = published_splits().get(catalog_name)
    if published is None:
        return Lists.UNKNOWN
    if digest_of((role, pools.get(role, ())) for role in ROLES) != published.lists_sha256:
        return Lists.OTHER
    names = {part.label: part.classname for items in pools.values() for part in parts(items)}
    same = verify_names([names[label] for label in sorted(names)], catalog_name)
    return Lists.EQUAL if same else Lists.RENAMED


def verify_names(names: Sequence[str], catalog_name: str, classes: str = "all") -> bool | None:
    """True when class names equal the published ones; None when none are published.

    names: in the order of the labels, of `all` classes or of the `base` or `new` half.
    """
    published = published_splits().get(catalog_name)
    if published is None:
        return None
    names_of = {classes: names}
    if classes == "all":
        halves = {part: class_half(len(names), part) for part in published.classnames_sha256}
        names_of = {part: names[half.start : half.stop] for part, half in halves.items()}
    return all(
        names_digest(some) == published.classnames_sha256[part] for part, some in names_of.items()
    )


def names_digest(names: Iterable[str]) -> str:
    """SHA-256 of newline-joined class names."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def verify_file(content: bytes, catalog_name: str) -> bool | None:
    """True when a split file is byte for byte the published one; None when none is published."""
    published = published_splits().get(catalog_name)
    return (
        None if published is None else hashlib.sha256(content).hexdigest() == published.file_sha256
    )


@functools.cache
def published_splits() -> Mapping[str, PublishedSplit]:
    """All published splits, by the catalog's data set name."""
    content = files("fewshot_bench.splits").joinpath("coop_picks.json").read_bytes()
    datasets = msgspec.json.decode(content)["datasets"]
    return msgspec.convert(datasets, dict[str, PublishedSplit])


@dataclass(frozen=True)
class PublishedDraw:
    """One published setting, the split drawn for it here, and whether they are equal.

    split: None if it cannot be drawn; `problem` is the reason then.
    """

    shots: int
    seed: int
    split: Split | None
    equal: bool
    problem: str = ""


def read_published_draws(dataset: str, revision: str, pools: Pools) -> Iterator[PublishedDraw]:
    """Every published setting of a data set, which must be one of `published_splits`."""
    for setting in published_splits()[dataset].picks:
        shots, seed = map(int, setting.split("/"))
        try:
            split = draw(
                dataset, revision, pools, protocol="coop", shots=shots, seed=seed, val="min4"
            )
        except FsbenchError as error:
            yield PublishedDraw(shots, seed, None, False, str(error))
        else:
            equal = verify_picks(split, dataset) is True
            yield PublishedDraw(shots, seed, split, equal)


def as_split(file: SplitFile, dataset: str, protocol: str) -> Split:
    """The picks of a file, whose setting is known, as a split of a protocol."""
    assert file.shots is not None
    assert file.seed is not None
    lists = {role: file.lists.get(role, ()) for role in ROLES}
    return Split(dataset, file.revision, protocol, file.shots, file.seed, **lists)


def compare_with_draw(file: SplitFile, pools: Pools, protocol: str) -> str:
    """Text that compares picks with a protocol's own draw of the same size, including val.

    `file` must hold items of the data set whose lists are `pools`.
    """
    split = as_split(file, file.dataset, protocol)
    held = count_per_class(split.val)
    sizes = {name: VALIDATION[name](split.shots) for name in ("none", "min4", "shots")}
    policies = [name for name, size in sizes.items() if size == held] or ["full"]
    drawn = partial(draw, split.dataset, split.revision, pools, protocol=protocol)
    try:
        draws = [drawn(shots=split.shots, seed=split.seed, val=policy) for policy in policies]
    except UsageError as error:
        return f"cannot be drawn ({error})"
    if any((own.train, own.val) == (split.train, split.val) for own in draws):
        return "equal: the same images in the same order"
    own = draws[0]
    shares = [f"{_share(split.train, own.train)} train"]
    if split.val:
        shares.append(f"{_share(split.val, own.val)} val")
    return f"differs: {' and '.join(shares)} images are the same"


def _share(mine: Sequence[Item], drawn: Sequence[Item]) -> str:
    both = {item.id for item in mine} & {item.id for item in drawn}
    other_order = mine != drawn and len(both) == len(mine) == len(drawn)
    return f"{len(both)} of {len(mine)}{' (in another order)' if other_order else ''}"
