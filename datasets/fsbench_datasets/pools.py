"""Train, val and test pools from lists that lack some of them, by holding out images.

Main entry point: `complete`. The held-out images depend on the ids and on which images are copies,
not on their order.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

from fewshot_bench import Dataset, Item, UsageError
from fewshot_bench.api.sources import (
    MOST_COMPARED,
    ItemList,
    Names,
    Pools,
    Run,
    label_counts,
    packed,
    parts,
)
from fsbench_datasets.kept_lists import keep_pools, lists_digest
from fsbench_datasets.split_lists import ROLES, shortened

UNSPLIT = ""
VAL_NAMES = ("val", "valid", "validation")
ROLE_NAMES = {
    "train": "train",
    "training": "train",
    **dict.fromkeys(VAL_NAMES, "val"),
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SPLIT_SEED = 1
VAL_SHARE, TEST_SHARE = 0.2, 0.3

Sizes = Callable[[str, int], tuple[int, int]]
Ties = Mapping[str, str]
"""Images that copy others: id to a name of its group, empty for a group that is trained on."""


def list_ties(undivided: Dataset, base: Sequence[Item], others: Sequence[Item]) -> Ties:
    """The images of `base` that are held out together, or not at all.

    A group with several classes, or with one of the `others` in it, is trained on. Images of more
    than `MOST_COMPARED` are divided one by one.
    """
    from fewshot_bench import find_copies

    items = [*base, *others]
    if len(items) > MOST_COMPARED:
        return {}
    ties: dict[str, str] = {}
    for group in find_copies(undivided, items).members:
        ids = [items[at].id for at in group]
        alike = len({items[at].label for at in group}) == 1 and group[-1] < len(base)
        ties |= dict.fromkeys(ids, min(ids) if alike else "")
    return ties


def check_holdout(name: str, holdout: float | None) -> None:
    """UsageError for a share that leaves no images for the test pool or for training."""
    if holdout is not None and not 0 < holdout < 1 - VAL_SHARE:
        raise UsageError(
            f"{name}: --holdout {holdout}: expected a share above 0 and below {1 - VAL_SHARE:g} "
            f"(another {VAL_SHARE:g} of each class is for validation), for example --holdout 0.3"
        )


def complete(
    name: str, given: Pools, dataset: Dataset | None, holdout: float | None
) -> tuple[Pools, str]:
    """All three pools, and a note on their origin.

    given: pools by role; `UNSPLIT` holds images without a role. Held-out images are chosen per
    class by a digest of their ids, independently of list order, and copies are held out together
    if the undivided `dataset` is given. Without train images, the train pool is empty. UsageError
    when a class has too few images, when there are validation images only, or when `holdout` is
    given although there are test images.
    """
    base = given.get("train") or given.get(UNSPLIT) or ()
    val, test = given.get("val", ()), given.get("test", ())
    if test and holdout is not None:
        raise UsageError(f"{name} comes with its own test images; leave --holdout out")
    if not base and not test:
        raise UsageError(f"{name} has validation images only: expected train or test images")
    if not base:
        return _pools((), val, test), "no train images: it can only be evaluated on (--transfer)"
    if test and val:
        return _pools(base, val, test), "split as it came"
    ties = list_ties(dataset, base, (*val, *test)) if dataset else {}
    if test:
        rest, held, _ = divide(base, _val_only, ties)
        note = "a fifth of the train images of each class is held out for validation"
        return _pools(rest, held, test), note
    share = TEST_SHARE if holdout is None else holdout
    rest, held, test = divide(base, partial(_make, name, share, not val), ties)
    return _pools(rest, val or held, test), share_note(bool(val), holdout)


def undivided(given: Pools, _: Dataset | None = None) -> tuple[Pools, str]:
    """Pools with all train and val images in `train` and an empty `val`, and a note on that.

    given: as for `complete`. Listed test images stay in `test`.
    """
    base = given.get("train") or given.get(UNSPLIT) or ()
    val, test = given.get("val", ()), given.get("test", ())
    whole = ItemList((*packed(base).runs, *packed(val).runs))
    note = "all train and val images" if val else "all train images" if test else "all images"
    return _pools(whole, (), test), f"{note} are trained on"


def share_note(validation: bool, holdout: float | None) -> str:
    """Note on how test images are held out; validation: the lists have validation images."""
    share = TEST_SHARE if holdout is None else holdout
    if validation:
        return f"{100 * share:g} % of each train class is held out as test images"
    shares = "/".join(f"{100 * part:g}" for part in (1 - VAL_SHARE - share, VAL_SHARE, share))
    return f"split {shares} per class"


def divide(items: Sequence[Item], sizes: Sizes, ties: Ties) -> tuple[ItemList, ItemList, ItemList]:
    """The remaining, the val and the test images, each in list order.

    sizes: function (class name, number of images) -> (number of val, number of test images), which
    hold as far as the groups allow; a class of copies of one image is not divided.
    """
    whole = packed(items)
    counts = label_counts(whole)
    names = {run.label: run.classname for run in whole.runs}
    held = {label: sizes(names[label], count) for label, count in counts.items()}
    made_of = f"{lists_digest({'': whole})} divided by {SPLIT_SEED} into {held}"
    made_of += f" with {sorted(ties.items())}" if ties else ""
    made = keep_pools(made_of, lambda: _divide(whole, held, ties))
    return made["rest"], made["val"], made["test"]


def _divide(items: ItemList, held: Mapping[int, tuple[int, int]], ties: Ties) -> Pools:
    """Pools `rest`, `val` and `test`; held: (val, test) image counts by label."""
    classes: dict[int, list[str]] = {}
    for run in items.runs:
        classes.setdefault(run.label, []).extend(run.ids)
    roles: dict[str, str] = {}
    for label, ids in classes.items():
        roles |= _divide_class(ids, *held[label], ties)

    def part(run: Run, role: str) -> Run:
        names = [
            name for name in run.names.listed() if roles.get(run.folder + name, "rest") == role
        ]
        return replace(run, names=Names.of(names))

    return {r: ItemList(part(run, r) for run in items.runs) for r in ("rest", "val", "test")}


def _divide_class(ids: Sequence[str], val: int, test: int, ties: Ties) -> dict[str, str]:
    """The pools of the held-out images of one class, val or test."""
    groups: dict[str, list[str]] = {}
    for id in ids:
        groups.setdefault(ties.get(id, id), []).append(id)
    spare = 0 if groups.pop("", ()) else 1
    ranked = sorted(groups.values(), key=lambda ids: min(map(_rank, ids)))
    # The test images come after those for validation, which have the lowest ranks.
    start = bisect_right([*accumulate(map(len, ranked))], val)
    tested = _nearest([*ranked[start:], *ranked[:start]], test, min(1, test), spare)
    held = {id: "test" for group in tested for id in group}
    rest = [group for group in ranked if group[0] not in held]
    return held | {id: "val" for group in _nearest(rest, val, 0, spare) for id in group}


def _nearest(
    groups: Sequence[list[str]], target: int, least: int, spare: int
) -> Sequence[list[str]]:
    """The groups with the number of images nearest to `target`, the first ones that give it.

    They have `least` images or more, and leave `spare` or more; none if no groups do.
    """
    most = sum(map(len, groups)) - spare
    target = min(target, most)
    if most + spare == len(groups):
        return groups[: max(target, 0)]
    # Number of images to the first group with which it is reached.
    last = {0: -1}
    for at, group in enumerate(groups):
        if target in last:
            break
        for count in list(last):
            last.setdefault(count + len(group), at)
    fitting = [count for count in last if least <= count <= most]
    left = min(fitting, key=lambda count: (abs(count - target), -count), default=0)
    taken = []
    while left:
        taken.append(groups[last[left]])
        left -= len(taken[-1])
    return taken


def check_classes(name: str, pools: Pools, *, lenient: bool = False) -> None:
    """UsageError for fewer than two classes, or if only some have train images, unless lenient."""
    labels = {label for role in ROLES for label in label_counts(pools[role])}
    if len(labels) < 2:
        raise UsageError(
            f"{name} has {len(labels)} class: expected 2 or more, a single class leaves nothing to "
            "tell apart"
        )
    trained = label_counts(pools["train"])
    for role in ("val", "test") if trained and not lenient else ():
        for part in parts(pools[role]):
            if part.label not in trained:
                raise UsageError(
                    f"{name}: class '{part.classname}' of the {role} images has no "
                    "train images: expected the same classes (add train images, or take it out)"
                )


def untested_note(pools: Pools) -> tuple[str, ...]:
    """A note on the classes without test images, if other classes have some; else empty."""
    tested = label_counts(pools["test"])
    names = {part.label: part.classname for role in ROLES for part in parts(pools[role])}
    absent = [names[label] for label in sorted(names) if label not in tested]
    if not tested or not absent:
        return ()
    return (f"no test images of {len(absent)} of {len(names)} classes: {shortened(absent)}",)


def _make(name: str, share: float, validation: bool, classname: str, count: int) -> tuple[int, int]:
    """(val, test) counts that leave an image for train and test each; no val if there are two.

    UsageError for a class with fewer than two images.
    """
    if count < 2:
        raise UsageError(
            f"{name}: class '{classname}' has {count} image: expected 2 or more, one each for "
            "train and test (add images, or say which are train and test)"
        )
    val = _part(count, VAL_SHARE) if validation and count > 2 else 0
    return val, min(_part(count, share), count - val - 1)


def _val_only(_: str, count: int) -> tuple[int, int]:
    """(val, 0) counts; a class with one image keeps it for training."""
    return (_part(count, VAL_SHARE) if count > 1 else 0), 0


def _part(count: int, share: float) -> int:
    return max(1, round(count * share))


def _rank(id: str) -> bytes:
    return hashlib.sha256(f"{SPLIT_SEED}\t{id}".encode()).digest()


def _pools(train: Sequence[Item], val: Sequence[Item], test: Sequence[Item]) -> Pools:
    return {"train": train, "val": val, "test": test}
